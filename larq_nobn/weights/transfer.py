"""Weights by name: their digest, and strict transfer between models."""

import hashlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError


def named_weights(model: tf.keras.Model) -> dict[str, tf.Variable]:
    """A model's weights by `layer/weight` names, independent of the session.

    Args:
        model: A built model.

    Returns:
        Dict from names such as `"stem/kernel"` to variables, in the model's order.
    """
    named = {}
    for layer in model.layers:
        for variable in layer.weights:
            leaf = variable.name.split(":")[0].split("/")[-1]
            named[f"{layer.name}/{leaf}"] = variable
    return named


def transfer_weights(
    source: tf.keras.Model, target: tf.keras.Model, what: str = "the weights"
) -> None:
    """Copy all weights from one model to another of the same layers.

    Args:
        source: The model to copy from.
        target: The model to copy to.
        what: What the source is, for the error.

    Raises:
        UserError: If the two differ in names or shapes of weights (with both sides), or
            a value is not finite. The target is unchanged then.
    """
    values = {name: v.numpy() for name, v in named_weights(source).items()}
    assign_checked(named_weights(target), values, what)


def check_fit(
    variables: Mapping[str, tf.Variable], shapes: Mapping[str, tuple], what: str
) -> None:
    """Check that values have the names and shapes of variables, before reading them.

    Args:
        variables: The variables by name.
        shapes: Shapes of the values by the same names.
        what: What the values are, for the error.

    Raises:
        UserError: On missing, unexpected or misshaped entries.
    """
    missing = [name for name in variables if name not in shapes]
    unexpected = [name for name in shapes if name not in variables]
    misshaped = [
        f"{name} (expected {tuple(variables[name].shape)}, got {shapes[name]})"
        for name in variables
        if name in shapes and tuple(variables[name].shape) != shapes[name]
    ]
    problems = [
        f"{len(names)} {kind}: {_listed(names)}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshaped),
        )
        if names
    ]
    if problems:
        raise UserError(
            f"{what} must have exactly the model's {len(variables)} entries",
            got="; ".join(problems),
            fix="build the model with the arguments of the network that the weights "
            "belong to (name, norm, binary_downsample, stem, width, num_classes)",
        )


def assign_checked(
    variables: Mapping[str, tf.Variable], values: Mapping[str, np.ndarray], what: str
) -> None:
    """Assign values to variables by name: all of them, or none and an error.

    Args:
        variables: The variables by name.
        values: Arrays by the same names.
        what: What the values are, for the error.

    Raises:
        UserError: On missing, unexpected or misshaped entries, or values that are not
            finite.
    """
    check_fit(variables, {name: value.shape for name, value in values.items()}, what)
    # Numbers outside float32's range become infinite.
    with np.errstate(over="ignore", invalid="ignore"):
        converted = {
            name: values[name].astype(variable.dtype.as_numpy_dtype, copy=False)
            for name, variable in variables.items()
        }
    broken = [
        name
        for name in variables
        if not all(np.isfinite(_real(a[name])).all() for a in (values, converted))
    ]
    if broken:
        raise UserError(
            f"{what} must be finite",
            got=f"NaN or infinity in {_listed(broken)}",
            fix="the training that wrote them diverged or the file is damaged; use an "
            "earlier checkpoint",
        )
    for name, variable in variables.items():
        variable.assign(converted[name])


def _real(value: np.ndarray) -> np.ndarray:
    """NumPy cannot test bfloat16 and the like for finiteness."""
    return value if value.dtype.kind in "fiub" else value.astype(np.float32)


def _listed(names: list[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def weights_sha256(weights: Mapping[str, np.ndarray]) -> str:
    """Digest of named weights: names, dtypes, shapes and bytes, in sorted order.

    Args:
        weights: Arrays by name.

    Returns:
        A hexadecimal SHA-256.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
