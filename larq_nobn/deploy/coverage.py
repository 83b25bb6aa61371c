"""What can be exported: known of a model before it is trained."""

import inspect

import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn.deploy.folded_model import FoldedModel, check_float32
from larq_nobn.deploy.rules import registered


def can_convert(
    model: tf.keras.Model, target: str = "arm", *, allow_float: bool = False
) -> list[tuple[str, str]]:
    """List what of a model `convert` would refuse, in seconds and without converting.

    Weights do not matter, unless they are not finite: ask before training.

    Args:
        model: A Keras model, trained or not.
        target: As in `convert`.
        allow_float: As in `convert`.

    Returns:
        Pairs of a layer's name and the reason, `"OUTER/INNER"` for a layer of a model
        inside the model; the model's own name where it is not about one layer. Empty if
        all converts, but for operators that TFLite itself does not have, such as those
        of a `Lambda` layer.

    Raises:
        UserError: If there is no such target.

    Example:
        >>> for layer, reason in can_convert(model):
        ...     print(f"{layer}: {reason}")
    """
    try:
        folded = FoldedModel(model, target, allow_float)
    except UserError as error:
        if isinstance(model, tf.keras.Model) and "`target`" not in str(error):
            return [(model.name, str(error))]
        raise
    failures = folded.failures()
    try:
        check_float32(model)
    except UserError as error:
        failures.insert(0, (model.name, str(error)))
    return failures


def float_layers(model: tf.keras.Model) -> list[tuple[str, str]]:
    """List the layers that compute in float although their inputs are quantized.

    Args:
        model: A model that can be exported.

    Returns:
        Pairs of a layer's name and the reason.

    Example:
        >>> float_layers(model)
    """
    folded = FoldedModel(model, allow_float=True)
    folded.failures()
    return list(folded.float_layers.items())


_PACKAGES = {"larq": "Larq's", "larq_nobn": "`larq_nobn`'s"}


def layers_table() -> str:
    """Return what becomes of every layer that the export knows, in Markdown."""
    alike: dict[str, list[type]] = {}
    for function, classes in registered().items():
        what = inspect.getdoc(function).splitlines()[0].rstrip(".")
        alike.setdefault(what, []).extend(classes)
    rows = [("layers", "what becomes of them"), ("---", "---")]
    rows += [(_listed(classes), what) for what, classes in alike.items()]
    return "\n".join(f"| {names} | {what} |" for names, what in rows)


def _listed(classes: list[type]) -> str:
    packages: dict[str, list[str]] = {}
    for cls in classes:
        package = _PACKAGES.get(cls.__module__.partition(".")[0], "")
        packages.setdefault(package, []).append(f"`{cls.__qualname__}`")
    return "; ".join(
        " ".join(filter(None, [package, ", ".join(names)]))
        for package, names in packages.items()
    )
