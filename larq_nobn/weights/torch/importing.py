"""From a published PyTorch checkpoint to a bundle that `weights=` finds."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import larq_nobn
from larq_nobn._errors import UserError, one_of
from larq_nobn._files import out_path, sha256
from larq_nobn.datasets import DATASETS, class_names
from larq_nobn.networks import FAMILIES, NetworkSpec, build
from larq_nobn.weights.bundle import write_bundle
from larq_nobn.weights.card import Card
from larq_nobn.weights.publishers import PUBLISHERS, Publisher
from larq_nobn.weights.sources import cache_folder
from larq_nobn.weights.torch.layouts import (
    LAYOUTS,
    load_torch_state_dict,
    unwrap_state_dict,
)
from larq_nobn.weights.torch.oracle import Variant, forward
from larq_nobn.weights.torch.reading import best_top1, read_checkpoint

# In float64 both sides agree to 1e-13; a wrong variant differs in the first digit.
_TOLERANCE = 1e-8


def import_checkpoint(
    path: str | Path,
    *,
    model: str,
    norm: str,
    dataset: str,
    out: str | Path | None = None,
    source: str | None = None,
    binary_weights: bool = True,
    alpha: float | None = None,
    stem: str | None = None,
    license: str | None = None,
    classifier_dtype: str = "float32",
    overwrite: bool = False,
    full: bool = True,
    origin: Mapping[str, str] | None = None,
) -> Path:
    """Turn a published PyTorch checkpoint into a bundle.

    The network is checked against `weights.torch.oracle`, the checkpoint's own
    arithmetic in NumPy, in float64 on two random images, before anything is written.

    Args:
        path: A file of torch.save, or an `.npz` file of its arrays. PyTorch is not
            needed.
        model: The network, as in `create_model`. Its width is read off the checkpoint.
        norm: `"free"`, `"batch"` or `"none"`.
        dataset: `"imagenet"`, `"cifar10"`, `"cifar100"` or `"digits"`.
        out: Folder of bundles; by default one in the user's cache.
        source: Who published it, one of `PUBLISHERS`; needed where the checkpoint
            leaves it open.
        binary_weights: `False` for a checkpoint of step 1.
        alpha: Factor on the residual branches; by default the published one.
        stem: `"imagenet"` or `"cifar"`; by default as its publisher has it.
        license: The weights' licence, if you know better than `PUBLISHERS`.
        classifier_dtype: Of the packed file, `"float32"` or `"float16"`.
        overwrite: Whether to replace a bundle of the same name.
        full: Whether to keep the latent weights too, for more training.
        origin: What else there is to say of where it comes from.

    Returns:
        The bundle's folder.

    Raises:
        UserError: If the checkpoint is not of that network, is damaged, or something
            is left open; nothing is written then.
        OSError: If it cannot be read, or the bundle not be written.
    """
    path = Path(path)
    one_of("model", model, FAMILIES, fix="choose one of zoo.list_models()")
    one_of("dataset", dataset, DATASETS)
    one_of("classifier_dtype", classifier_dtype, ("float32", "float16"))
    content = read_checkpoint(path)
    state = unwrap_state_dict(content)
    source = _source(state, source)
    published = PUBLISHERS[source]
    network = _network(
        state,
        published,
        dataset,
        name=model,
        norm=norm,
        binary_weights=binary_weights,
        alpha=alpha,
        stem=stem,
    )
    built = build(network, classifier_activation=None)
    load_torch_state_dict(built, state)
    check_against_oracle(network, state)
    statistics = DATASETS[published.normalizes_as or dataset]
    top1 = best_top1(content)
    license = published.license if license is None else license
    card = Card(
        network=network,
        dataset=dataset,
        classes=class_names(dataset),
        mean=statistics.mean,
        std=statistics.std,
        metrics={} if top1 is None else {"top1": top1},
        versions={"larq_nobn": larq_nobn.__version__, "tensorflow": tf.__version__},
        origin={
            "title": published.title,
            "url": published.url,
            "paper": published.paper,
            "file": path.name if path.name.isprintable() else "",
            "sha256": sha256(path),
            "dtype": _dtype(content),
            **(origin or {}),
        },
        license=license,
        redistributable=bool(license),
    )
    return write_bundle(
        built,
        card,
        cache_folder() / "zoo" if out is None else out_path(out),
        full=full,
        classifier_dtype=classifier_dtype,
        overwrite=overwrite,
    )


def _source(state: Mapping[str, np.ndarray], given: str | None) -> str:
    """Who published a checkpoint, by what only they write."""
    if given is not None:
        one_of("source", given, PUBLISHERS)
    small_stem = "conv1.weight" in state and state["conv1.weight"].shape[2:] == (3, 3)
    found: str | None = "bnn_nobn"
    if any(key.endswith(".L_alpha") for key in state):
        found = "ab_bnn"
    elif any(key.endswith(".weights") for key in state):
        found = "reactnet"
    elif any(key.endswith(".running_mean") for key in state) and not small_stem:
        # Both publishers use these names and shapes, with other arithmetic and licence.
        found = given if given in ("bnn_nobn", "reactnet") else None
    if found is None or given not in (None, found):
        raise UserError(
            "`source` must say who published the checkpoint",
            got=f"source={given!r}, and names and shapes of "
            f"{'bnn_nobn or reactnet' if found is None else found}",
            fix="--source bnn_nobn for VITA-Group/BNN_NoBN, --source reactnet for "
            "liuzechun/ReActNet (real downsample kernels), --source ab_bnn for A&B BNN",
        )
    return found


def _dtype(content: Mapping[str, Any]) -> str:
    """What the weights are stored in, such as `"bfloat16"`, which NumPy has not."""
    inner = content.get("state_dict", content)
    weight = next(value for key, value in inner.items() if key.endswith("fc.weight"))
    return str(weight.dtype).removeprefix("torch.")


def _network(
    state: Mapping[str, np.ndarray],
    published: Publisher,
    dataset: str,
    *,
    name: str,
    stem: str | None,
    **arguments: Any,
) -> NetworkSpec:
    """The network that the checkpoint says it is, before it is checked to be it."""
    layout = LAYOUTS.get(FAMILIES[name].names)
    first = layout and state.get(f"{layout.stem}conv1.weight")
    last = state.get("fc.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 2:
        raise UserError(
            f"The checkpoint must be of the network {name}",
            got=f"one without its first or last layer ({', '.join(list(state)[:4])}, "
            "...)",
            fix="give the --model that it is of: reactnet18, reactnet34, reactnet_a, "
            "abnet18, abnet34 or abnet_a",
        )
    width, channels, kernel_size, _ = first.shape
    if stem is None:
        is_small = DATASETS[dataset].stem == "cifar" and published.cifar_stem
        if layout.imagenet_kernel is not None:
            is_small = kernel_size != layout.imagenet_kernel
        stem = "cifar" if is_small else "imagenet"
    classes = len(class_names(dataset))
    if len(last) != classes:
        raise UserError(
            f"A network for {dataset} must have {classes} classes",
            got=f"a checkpoint with {len(last)}",
            fix="give the --data that it was trained on",
        )
    *sides, _ = DATASETS[dataset].input_shape
    return NetworkSpec(
        name,
        stem=stem,
        width=width,
        input_shape=(*sides, channels),
        num_classes=classes,
        binary_downsample=published.binary_downsample,
        **arguments,
    )


def check_against_oracle(network: NetworkSpec, state: Mapping[str, np.ndarray]) -> None:
    """Check that our network computes what the checkpoint's own code would.

    Args:
        network: What the checkpoint was taken for.
        state: The bare state dict.

    Raises:
        UserError: If it does not.
    """
    # Twice the strides: on 1×1 maps only a kernel's centre would be tested.
    size = 2 * network.plan.stride(network.stem)
    shape = (size, size, network.input_shape[-1])
    images = np.random.default_rng(0).standard_normal((2, *shape))
    with _float64():
        model = build(replace(network, input_shape=shape), classifier_activation=None)
        load_torch_state_dict(model, state)
        ours = model(images, training=False).numpy()
    variant = Variant(
        binary_weights=network.binary_weights,
        binary_downsample=network.binary_downsample,
        stem_stride=2 if network.stem == "imagenet" else 1,
        alpha=network.alpha,
    )
    theirs = forward(state, images.transpose(0, 3, 1, 2), variant)
    deviation = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)
    if not deviation <= _TOLERANCE:
        raise UserError(
            "The network must compute what the checkpoint's own code computes",
            got=f"logits that differ by {deviation:.1g} relative",
            fix="check --model, --norm, --source, --stem and --alpha; weights of "
            "exactly 0, which PyTorch and Larq give other signs, are another cause",
        )


@contextmanager
def _float64() -> Iterator[None]:
    """Build and run in float64, and undo it whatever happens."""
    floatx = tf.keras.backend.floatx()
    policy = tf.keras.mixed_precision.global_policy()
    tf.keras.backend.set_floatx("float64")
    tf.keras.mixed_precision.set_global_policy("float64")
    try:
        yield
    finally:
        tf.keras.backend.set_floatx(floatx)
        tf.keras.mixed_precision.set_global_policy(policy)
