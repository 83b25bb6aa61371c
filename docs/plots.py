"""The guide's own plots, from measurements: `make docs-plots`, some ten minutes.

Needs no data folder: noise, or the digits that come with scikit-learn. The figures that
the page "The method in five minutes" states are printed.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from larq_nobn import callbacks, cli, optimizers, zoo
from larq_nobn._figures import COLOURS, new_figure, save_figure
from larq_nobn.math import scaled_weight_standardization
from larq_nobn.training import data

IMAGES = Path(__file__).parent / "images"
CLIP_FACTORS = (None, 0.1, 0.02, 0.005, 0.001)
SEEDS = (0, 1, 2)
EPOCHS, BATCH_SIZE, LEARNING_RATE, WIDTH = 10, 64, 4e-3, 8


def propagation(path: Path) -> None:
    """Signal propagation of ReActNet-18 at initialization, by norm."""
    tf.keras.utils.set_random_seed(0)
    cli.main(["probe", "reactnet18", "--out", str(path)])


def standardization(path: Path) -> None:
    """A binary kernel before and after standardization, and what it computes."""
    tf.keras.utils.set_random_seed(0)
    model = zoo.create_model("reactnet18", stem="cifar", input_shape=(8, 8, 1))
    layer = model.get_layer("stage1_unit4_conv")
    (images, _), _ = digits()
    inputs = tf.keras.Model(model.inputs, layer.input)(images[:256])
    signs = layer.input_quantizer(inputs)
    print(f"{100 * np.mean(signs.numpy() == 1):.0f} % of the inputs are +1")
    kernels = {
        "as initialized": layer.kernel,
        "standardized": scaled_weight_standardization(layer.kernel),
    }
    fan_in = int(np.prod(layer.kernel.shape[:-1]))
    figure = new_figure(10, 3.2)
    *before_after, outputs = figure.subplots(1, 3, width_ratios=[1, 1, 1.6])
    colours = (COLOURS[2], COLOURS[0])
    for ax, (name, kernel), colour in zip(
        before_after, kernels.items(), colours, strict=True
    ):
        weights = kernel.numpy()[..., 0].ravel()
        ax.hist(weights, 24, color=colour)
        ax.axvline(0, color="0.3", linewidth=1)
        positive = 100 * (weights >= 0).mean()
        ax.set_title(f"weights {name}:\n{positive:.0f} % become +1", fontsize=10)
        ax.set_xlabel("weight")
        ax.locator_params(axis="x", nbins=4)
        binary = tf.where(kernel >= 0, 1.0, -1.0)
        sums = tf.nn.conv2d(signs, binary, 1, "SAME").numpy() / np.sqrt(fan_in)
        mean, std = sums.mean(), sums.std((0, 1, 2)).mean()
        label = f"{name}: mean {mean:.2f}"
        print(f"outputs, weights {label}, standard deviation {std:.2f} per channel")
        bins = np.arange(-5, 13, 0.25)
        outputs.hist(sums.ravel(), bins, density=True, color=colour, label=label)
    outputs.set_title("what the binary convolution computes", fontsize=10)
    outputs.set_xlabel(f"sum of {fan_in} products / √{fan_in}")
    outputs.legend(frameon=False)
    for ax in (*before_after, outputs):
        ax.set_yticks([])
    save_figure(figure, path)


def clipping(path: Path) -> None:
    """Test accuracy by λ, and how much each λ clips."""
    figure = new_figure(10, 4)
    accuracy, clipped = figure.subplots(1, 2)
    for place, factor in enumerate(CLIP_FACTORS):
        runs = [train(factor, seed) for seed in SEEDS]
        top1 = [100 * run["val_accuracy"][-1] for run in runs]
        print(f"λ = {factor}: {', '.join(f'{x:.1f}' for x in top1)} %")
        accuracy.plot([place] * len(top1), top1, "o", color=COLOURS[0], alpha=0.5)
        accuracy.plot(
            [place - 0.2, place + 0.2], [np.mean(top1)] * 2, c=COLOURS[0], lw=3
        )
        if factor is None:
            continue
        shares = [[100 * x for x in clipped_share(run)] for run in runs]
        clipped.plot(
            range(1, EPOCHS + 1),
            np.mean(shares, axis=0),
            color=COLOURS[place - 1],
            label=f"λ = {factor:g}",
            lw=2,
        )
    names = ["none" if factor is None else f"{factor:g}" for factor in CLIP_FACTORS]
    accuracy.set_xticks(range(len(names)), names)
    accuracy.set_xlabel("λ")
    accuracy.set_title(f"top-1 on test digits (%), {len(SEEDS)} seeds and their mean")
    clipped.set_xlabel("epoch")
    clipped.set_ylim(0, 105)
    clipped.set_title("units whose gradient is clipped (%)")
    clipped.legend(frameon=False)
    for ax in (accuracy, clipped):
        ax.grid(alpha=0.25)
    save_figure(figure, path)


def train(clip_factor: float | None, seed: int) -> dict[str, list[float]]:
    """Train a narrow BN-free ReActNet-18 on digits, binary from the start.

    Args:
        clip_factor: λ of adaptive gradient clipping; `None` for none.
        seed: Seed of initialization and order.

    Returns:
        Keras's history.
    """
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(seed)
    (x, y), test = digits()
    model = zoo.create_model(
        "reactnet18", stem="cifar", width=WIDTH, input_shape=(8, 8, 1), num_classes=10
    )
    steps = EPOCHS * -(-len(x) // BATCH_SIZE)
    optimizer = tf.keras.optimizers.Adam(
        tf.keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    )
    watching = []
    if clip_factor is not None:
        optimizer = optimizers.AdaptiveGradientClipping(
            optimizer,
            clip_factor,
            exclude=[model.get_layer("classifier")],
            track_clipping=True,
        )
        watching.append(callbacks.ClippingReport())
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        validation_data=test,
        callbacks=watching,
        verbose=0,
    ).history


def clipped_share(history: dict[str, list[float]]) -> np.ndarray:
    """Mean over the layers of the share of clipped units, epoch by epoch."""
    layers = [values for name, values in history.items() if name.startswith("agc/")]
    return np.mean(layers, axis=0)


def digits():
    """Normalized digits and their labels, for training and for testing."""
    images = data.load_images("digits")
    return [
        (zoo.preprocess_input(x, "digits"), y) for x, y in (images.train, images.test)
    ]


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    propagation(IMAGES / "propagation.png")
    standardization(IMAGES / "standardization.png")
    clipping(IMAGES / "clipping.png")
