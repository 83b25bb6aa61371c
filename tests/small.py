"""A small network, its card, and random state dicts of the published networks."""

import numpy as np
import tensorflow as tf

from larq_nobn import zoo
from larq_nobn.datasets import class_names
from larq_nobn.networks import NetworkSpec
from larq_nobn.weights.card import Card
from larq_nobn.weights.torch.layouts import torch_entries
from larq_nobn.weights.transfer import named_weights

SMALL = {
    "name": "reactnet18",
    "stem": "cifar",
    "width": 8,
    "num_classes": 10,
    "input_shape": (16, 16, 3),
}
FOLDER = "reactnet18_free_cifar10_width8"


def small_model(seed: int = 0) -> tf.keras.Model:
    model = zoo.create_model(**SMALL, classifier_activation=None)
    rng = np.random.default_rng(seed)
    for variable in named_weights(model).values():
        variable.assign(0.3 * rng.standard_normal(variable.shape))
    return model


def small_card() -> Card:
    return Card(
        network=NetworkSpec(**SMALL),
        dataset="cifar10",
        classes=class_names("cifar10"),
        # Not CIFAR-10's usual ones.
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        metrics={"top1": 91.5, "top1_step1": 93.25},
        recipe={"name": "small"},
        versions={"larq_nobn": "0.1.0"},
        origin={"title": "a test"},
        license="Apache-2.0",
        redistributable=True,
    )


def random_state(model: tf.keras.Model, seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict of the published network, in float32, with every part at work."""
    rng = np.random.default_rng(seed)
    state = {}
    for key, entry in torch_entries(model).items():
        n = rng.standard_normal(entry.shape)
        match key.split(".")[-1]:
            case "L_alpha":
                n = n - 3
            case "gain":
                n = 1 + 0.1 * n
            case "running_var":
                n = np.exp(0.1 * n)
            case "bias" | "running_mean":
                n = 0.1 * n
            case "weight" if n.ndim == 1:
                n = 0.6 + 0.1 * n
            case _:
                n = 0.05 * n
        state[key] = n.astype(np.float32)
    return state


def liuzechun(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ReActNet-A's state dict as liuzechun stores it: flat kernels, called weights."""
    return {
        f"{key}s" if "binary" in key else key: (
            value.reshape(-1, 1) if "binary" in key else value
        )
        for key, value in state.items()
    }


def randomized(model: tf.keras.Model) -> tf.keras.Model:
    """The model, with other weights; variances stay positive."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        value = rng.normal(size=weight.shape)
        weight.assign(np.abs(value) if "variance" in weight.name else value)
    return model


def assert_same_weights(actual: tf.keras.Model, expected: tf.keras.Model) -> None:
    for a, b in zip(actual.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
