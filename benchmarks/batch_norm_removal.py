"""Three networks in three forms on CIFAR-10: with batch norm, BN-free, BN deleted.

All forms of a network start from the same kernels and have the same budget, data order
and optimizer (Adam, linear decay; the BN-free form with adaptive gradient clipping).
Prints a table and draws the signal propagation at initialization.

    python benchmarks/batch_norm_removal.py --data-dir TFDS --out runs/removal
"""

import argparse
import json
from pathlib import Path

import larq as lq
import larq_zoo
import tensorflow as tf

import larq_nobn
from larq_nobn._files import write_json
from larq_nobn.optimizers import AdaptiveGradientClipping
from larq_nobn.probes import draw_signal_propagation, signal_propagation
from larq_nobn.training import data

CLASSES = 10
SHAPE = (32, 32, 3)


def vgg():
    """A binary stack without shortcuts: VGG-Small at a quarter of its width."""
    x = image = tf.keras.Input(SHAPE)
    quantized = {
        "kernel_quantizer": "ste_sign",
        "kernel_constraint": "weight_clip",
        "use_bias": False,
        "padding": "same",
    }
    for i, filters in enumerate((32, 32, 64, 64, 128, 128)):
        x = lq.layers.QuantConv2D(
            filters, 3, input_quantizer="ste_sign" if i else None, **quantized
        )(x)
        if i % 2:
            x = tf.keras.layers.MaxPooling2D(2)(x)
        x = tf.keras.layers.BatchNormalization(momentum=0.9)(x)
    x = tf.keras.layers.GlobalAveragePooling2D()(x)
    x = tf.keras.layers.Dense(CLASSES, activation="softmax")(x)
    return tf.keras.Model(image, x, name="vgg")


def larq_zoo_network(make):
    return make(weights=None, input_shape=SHAPE, num_classes=CLASSES)


NETWORKS = {
    "VGG-Small, width 32": vgg,
    "BiRealNet": lambda: larq_zoo_network(larq_zoo.literature.BiRealNet),
    "QuickNet": lambda: larq_zoo_network(larq_zoo.sota.QuickNet),
}


def forms(model, images):
    yield "BN", model
    yield "BN-free", larq_nobn.remove_batch_norm(model, images=images)
    yield "BN deleted", larq_nobn.remove_batch_norm(model, norm="none")


def train(model, form, images, args):
    batches = images.train[0].shape[0] // args.batch_size
    schedule = tf.keras.optimizers.schedules.PolynomialDecay(
        args.learning_rate, args.epochs * batches, end_learning_rate=0.0
    )
    optimizer = tf.keras.optimizers.Adam(schedule)
    if form == "BN-free":
        optimizer = AdaptiveGradientClipping(
            optimizer, clip_factor=args.clip_factor, exclude=[classifier(model)]
        )
    model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])
    for epoch in range(args.epochs):
        train_batches = images.train_batches(args.batch_size, seed=0, epoch=epoch)
        model.fit(train_batches, verbose=0)
    _, accuracy = model.evaluate(images.test_batches(500), verbose=0)
    return 100 * accuracy


def classifier(model):
    return [x for x in model.layers if isinstance(x, tf.keras.layers.Dense)][-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, default=Path("runs/removal"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--limit", type=int, default=10_000, help="training images")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--clip-factor", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    images = data.load_images("cifar10", args.data_dir, limit=args.limit)
    examples, _ = next(iter(images.train_batches(64, seed=0, epoch=0)))
    done = args.out / "results.json"
    results = json.loads(done.read_text()) if done.exists() else {}
    for name, make in NETWORKS.items():
        for seed in range(args.seeds):
            tf.keras.backend.clear_session()
            tf.keras.utils.set_random_seed(seed)
            measured = {}
            for form, model in forms(make(), examples):
                measured[form] = signal_propagation(
                    model, examples, training=form == "BN"
                )
                key = f"{name}, {form}, seed {seed}"
                if key not in results:
                    results[key] = train(model, form, images, args)
                    write_json(done, results)
                print(f"{key}: {results[key]:.2f} %", flush=True)
            file = name.split(",")[0].lower().replace("-", "_")
            if seed == 0:
                draw_signal_propagation(measured, args.out / f"{file}.png")


if __name__ == "__main__":
    main()
