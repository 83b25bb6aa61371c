"""The reference's vectors in `data/`, and how our objects are compared with them."""

import functools
import json
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf

from larq_nobn import zoo
from larq_nobn.weights.torch.layouts import torch_entries

DATA = Path(__file__).parent / "data"
INDEX = json.loads((DATA / "index.json").read_text())
TOLERANCE = 1e-9

# Case -> arguments of `create_model`; size and classes are in the index. The largest
# networks come first: TensorFlow uses their memory again for the others.
_18 = {"name": "reactnet18"}
_A = {"name": "reactnet_a"}
_QA = {"binary_weights": False}
_CIFAR = {"stem": "cifar"}
_LIU = {"norm": "batch", "binary_downsample": False}
MODELS = {
    "reactnetA_bf_Qa_imagenet": {**_A, **_QA},
    "reactnetA_bf_Qaw_imagenet": _A,
    "reactnetA_bf_Qaw_alpha0.3": {**_A, "alpha": 0.3},
    "reactnetA_bn_Qa_imagenet": {**_A, **_QA, "norm": "batch"},
    "reactnetA_bn_Qaw_imagenet": {**_A, "norm": "batch"},
    "reactnetA_none_Qa_imagenet": {**_A, **_QA, "norm": "none"},
    "reactnetA_none_Qaw_imagenet": {**_A, "norm": "none"},
    "liu_reactnetA": {**_A, **_LIU},
    "abnetA_imagenet": {"name": "abnet_a"},
    "reactnet18_bf_Qa_cifar": {**_18, **_QA, **_CIFAR},
    "reactnet18_bf_Qaw_cifar": {**_18, **_CIFAR},
    "reactnet18_bf_Qa_imagenet": {**_18, **_QA},
    "reactnet18_bf_Qaw_imagenet": _18,
    "reactnet18_bn_Qa_cifar": {**_18, **_QA, **_CIFAR, "norm": "batch"},
    "reactnet18_bn_Qaw_cifar": {**_18, **_CIFAR, "norm": "batch"},
    "reactnet18_bn_Qa_imagenet": {**_18, **_QA, "norm": "batch"},
    "reactnet18_bn_Qaw_imagenet": {**_18, "norm": "batch"},
    "reactnet18_none_Qa_cifar": {**_18, **_QA, **_CIFAR, "norm": "none"},
    "reactnet18_none_Qaw_cifar": {**_18, **_CIFAR, "norm": "none"},
    "reactnet18_none_Qa_imagenet": {**_18, **_QA, "norm": "none"},
    "reactnet18_none_Qaw_imagenet": {**_18, "norm": "none"},
    "liu_reactnet18": {**_18, **_LIU},
    "abnet18_cifar": {"name": "abnet18", **_CIFAR},
    "abnet34_imagenet": {"name": "abnet34"},
}
TRAJECTORIES = {
    "trajectory_reactnet18_bf_Qa": {**_18, **_QA, **_CIFAR},
    "trajectory_reactnet18_bf_Qaw": {**_18, **_CIFAR},
    "trajectory_reactnet18_bf_Qaw_wd1e-2": {**_18, **_CIFAR},
    "trajectory_reactnet18_bf_Qaw_eps1e-8": {**_18, **_CIFAR},
}


def rng(*parts: str) -> np.random.Generator:
    return np.random.default_rng([INDEX["seed"], zlib.crc32("/".join(parts).encode())])


def tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor of a state dict."""
    n = rng(key).standard_normal(shape)
    is_batch_norm = ".bn" in key or key.startswith("bn") or "downsample.2" in key
    match key.split(".")[-1]:
        case "gain":
            return 1 + 0.1 * n
        case "bias" | "running_mean":
            return 0.1 * n
        case "running_var":
            return np.exp(0.1 * n)
        case "num_batches_tracked":
            return np.int64(1)
        case "L_alpha":
            return -3 + n
        case _ if len(shape) >= 2:
            return 0.05 * n
        case _ if is_batch_norm:
            return 1 + 0.1 * n
    return 0.25 + 0.05 * n


@functools.lru_cache(maxsize=1)  # Neighbours in the tables share a network.
def _network(name: str) -> dict[str, np.ndarray]:
    shapes = INDEX["networks"][name]
    return {key: tensor(key, tuple(shape)) for key, shape in shapes.items()}


def state_dict(case: str) -> dict[str, np.ndarray]:
    return _network(INDEX["cases"][case]["network"])


def trainable_keys(case: str) -> list[str]:
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    shapes = INDEX["networks"][INDEX["cases"][case]["network"]]
    return [key for key in shapes if not key.endswith(statistics)]


def entries(model: tf.keras.Model, keys: list[str]) -> list:
    """The model's weights under PyTorch's keys; liuzechun writes `weights` for some."""
    by_key = torch_entries(model)
    return [by_key[key.replace(".weights", ".weight")] for key in keys]


def images(case: str, name: str = "input") -> np.ndarray:
    settings = INDEX["cases"][case]
    shape = (settings["batch"], 3, settings["size"], settings["size"])
    x = rng(case.removeprefix("trajectory_"), name).standard_normal(shape)
    return x.transpose(0, 2, 3, 1)


def labels(case: str, name: str = "labels") -> np.ndarray:
    settings = INDEX["cases"][case]
    source = rng(case.removeprefix("trajectory_"), name)
    return source.integers(0, settings["classes"], settings["batch"])


def build(case: str) -> tf.keras.Model:
    """Our network with the case's weights; call it in float64."""
    settings = INDEX["cases"][case]
    model = zoo.create_model(
        **{**MODELS, **TRAJECTORIES}[case],
        input_shape=(settings["size"], settings["size"], 3),
        num_classes=settings["classes"],
        classifier_activation=None,
    )
    zoo.load_torch_state_dict(model, state_dict(case))
    return model


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def load_parts(name: str) -> dict[str, dict[str, np.ndarray]]:
    """A file whose keys are `part|quantity`."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for key, value in load(name).items():
        part, quantity = key.split("|")
        parts.setdefault(part, {})[quantity] = value
    return parts


def deviation(actual, expected) -> float:
    """Largest difference."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == np.float64
    assert actual.shape == expected.shape
    return float(np.max(np.abs(actual - expected)))


def gradient_deviation(gradient: np.ndarray, norm: float, head: np.ndarray) -> float:
    """Largest difference of a gradient's norm and first values, relative to its norm.

    Relative, because an absolute bound would let the small gradients of the first
    layers be wrong.
    """
    head = head[: gradient.size]
    first = gradient.ravel()[: head.size]
    scale = norm or 1.0
    return max(
        deviation(np.linalg.norm(gradient), norm) / scale,
        deviation(first, head) / scale,
    )


def nhwc(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1)


def hwio(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0)
