"""What is searched: the hyperparameters, their usual ranges, and who used which."""

import contextlib
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from larq_nobn._errors import UserError, one_of
from larq_nobn.networks import FAMILIES, NORMS, SURROGATES
from larq_nobn.training.recipe import OPTIMIZERS, Recipe


@dataclass(frozen=True)
class Parameter:
    """A hyperparameter.

    Attributes:
        usual: Where to search: a tuple `(lowest, highest)` or a list of choices.
        published: The paper's value.
        source: Where the range comes from.
        log: Whether a range is searched on a logarithmic scale.
    """

    usual: Any
    published: Any
    source: str
    log: bool = False


# Learning rates of Adam, and of SGD, which are larger.
_RATES = {"adam": (1e-4, 1e-2), "rmsprop": (1e-4, 1e-2), "sgd": (1e-2, 1.0)}

PARAMETERS: dict[str, Parameter] = {
    "alpha": Parameter(
        (0.1, 1.0),
        0.2,
        "0.2 in NFNets (arXiv 2102.06171) and BNN - BN (2104.08215), 0.25 in A&B BNN "
        "(2403.03739), 1 without the factor",
        log=True,
    ),
    "clipping": Parameter([True, False], True, "switches clip_factor off and on"),
    "clip_factor": Parameter(
        (5e-4, 0.16),
        0.02,
        "0.01 to 0.16 in NFNets (Section 4.1), 0.02 in BNN - BN, 0.001 in A&B BNN",
        log=True,
    ),
    "optimizer": Parameter(
        ["adam", "sgd"], "adam", "compared for binary networks in arXiv 2106.11309"
    ),
    "learning_rate": Parameter(
        _RATES, 5e-4, "Adam at 5e-4 in BNN - BN; SGD takes larger ones", True
    ),
    "weight_decay": Parameter(
        (1e-6, 1e-4), 1e-5, "L2 of step 1: 1e-5 in BNN - BN, 2e-5 in NFNets", log=True
    ),
    "surrogate": Parameter(
        list(SURROGATES),
        "approx_sign",
        "Bi-Real Net (1808.00278), A&B BNN, BinaryNet (1602.02830), BNN+ (1812.11800)",
    ),
    "units": Parameter((1, 4), 4, "4 in ReActNet-18, 6 to 12 in ReActNet-34"),
    "width": Parameter([16, 32, 64], 64, "64 in ReActNet-18, 32 in ReActNet-A"),
    "step1_share": Parameter(
        [0.0, 0.25, 0.5],
        0.5,
        "half of the epochs with real weights in BNN - BN; 0 skips step 1",
    ),
}


class SearchSpace:
    """The ranges of a search.

    Args:
        model: One of `zoo.list_models()`.
        norm: As in `zoo.create_model`.
        **ranges: For each of `PARAMETERS` a tuple `(lowest, highest)`, a list of
            choices, a single value that is fixed, or `None` to leave it out, which
            takes the recipe's default. What is not given has the usual range.
            `learning_rate` may also be a dict with one of these per optimizer.

    Attributes:
        ranges: Name to range, of all that are not left out.

    Raises:
        UserError: If there is no such hyperparameter, a range is impossible, or
            nothing is left to search.
    """

    def __init__(self, model: str = "reactnet18", norm: str = "free", **ranges: Any):
        one_of("model", model, FAMILIES, fix="choose one of zoo.list_models()")
        one_of("norm", norm, NORMS)
        for name in ranges:
            one_of("the name of a hyperparameter", name, PARAMETERS)
        self.model, self.norm = model, norm
        self.ranges: dict[str, Any] = {}
        unused = self._without_effect(ranges)
        for name, parameter in PARAMETERS.items():
            given = ranges.get(name)
            if name in unused:
                if given is not None:
                    raise UserError(
                        f"`{name}` must be left out where {unused[name]}",
                        got=f"{name}={given!r}",
                        fix=f"{name}=None",
                    )
            elif name not in ranges:
                self.ranges[name] = parameter.usual
            elif given is not None:
                self.ranges[name] = given
        optimizers = _options(self.ranges.get("optimizer", "adam"))
        for optimizer in optimizers:
            self._check("optimizer", optimizer)
        if "learning_rate" in self.ranges:
            rates = _rates(self.ranges["learning_rate"], optimizers)
            self.ranges["learning_rate"] = rates
        self.ranges = {name: self._checked(name) for name in self.ranges}
        if not self.varied:
            raise UserError(
                "A search needs at least one hyperparameter with a range",
                got="fixed values only",
                fix="leave one of them out of the arguments",
            )

    @property
    def varied(self) -> dict[str, Any]:
        """Name to range, of all that are not fixed."""
        return {
            name: spec
            for name, spec in self.ranges.items()
            if any(map(_is_range, spec.values() if isinstance(spec, dict) else [spec]))
        }

    def describe(self) -> dict[str, str]:
        """The ranges in words, by name; what is left out is `"left out"`."""
        return {name: _words(self.ranges.get(name), name) for name in PARAMETERS}

    def draw(self, hp) -> dict[str, Any]:
        """Register the hyperparameters with keras-tuner and take their values.

        Args:
            hp: A `keras_tuner.HyperParameters`.

        Returns:
            Name to value, of all that are active.

        Raises:
            UserError: If a value lies outside of its range, as those of another
                search do.
        """
        values = {
            name: self._value(hp, name, self.ranges[name])
            for name in self.ranges
            if name not in ("clip_factor", "learning_rate", "weight_decay")
        }
        with self._given(hp, "clipping", [True]):
            self._add(hp, values, "clip_factor", values.get("clipping", True))
        rates = self.ranges.get("learning_rate", {})
        for optimizer, rate in rates.items():
            if len(rates) == 1:
                values["learning_rate"] = self._value(hp, "learning_rate", rate)
                break
            # Under the same name, keras-tuner would drop both at once.
            with self._given(hp, "optimizer", [optimizer]):
                value = self._value(hp, "learning_rate", rate, optimizer)
            if optimizer == values["optimizer"]:
                values["learning_rate"] = value
        shares = [share for share in _options(self.ranges.get("step1_share")) if share]
        with self._given(hp, "step1_share", shares):
            self._add(hp, values, "weight_decay", values.get("step1_share") != 0)
        return values

    def _add(self, hp, values: dict[str, Any], name: str, active: bool) -> None:
        """Draw a value that matters only under a condition."""
        if name in self.ranges:
            value = self._value(hp, name, self.ranges[name])
            if active:
                values[name] = value

    def _given(self, hp, name: str, values: list):
        """Keras-tuner's scope of a condition; none where the condition is fixed."""
        if isinstance(self.ranges.get(name), list):
            return hp.conditional_scope(name, values)
        return contextlib.nullcontext()

    def _value(self, hp, name: str, spec: Any, prefix: str = "") -> Any:
        """Register one hyperparameter and take its value; `None` if inactive."""
        key = f"{prefix}_{name}" if prefix else name
        published = PARAMETERS[name].published
        if isinstance(spec, tuple):
            low, high = spec
            default = published if low <= published <= high else None
            if isinstance(low, int):
                value = hp.Int(key, low, high, default=default)
            else:
                sampling = "log" if PARAMETERS[name].log else "linear"
                value = hp.Float(key, low, high, sampling=sampling, default=default)
            # Logarithm and exponential are not exact inverses.
            inside = value is None or low * (1 - 1e-9) <= value <= high * (1 + 1e-9)
        elif isinstance(spec, list):
            default = published if published in spec else None
            is_bool = isinstance(spec[0], bool)
            add = hp.Boolean if is_bool else functools.partial(hp.Choice, values=spec)
            value = add(key, default=default)
            inside = value is None or value in spec
        else:
            return spec
        if not inside:
            raise UserError(
                f"`{name}` must be {_words(spec, name)} in this search",
                got=f"{name}={value!r} from the tuner, whose folder holds another "
                "search",
                fix="choose another directory or project_name, or overwrite=True",
            )
        return value

    def _without_effect(self, ranges: Mapping[str, Any]) -> dict[str, str]:
        """Name to reason, of what changes nothing."""
        unused = {}
        if self.norm != "free":
            unused["alpha"] = f"norm={self.norm!r}"
        if FAMILIES[self.model].units is None:
            unused["units"] = f"the model is {self.model}, which has no units per stage"
        if ranges.get("clipping") is False:
            unused["clip_factor"] = "clipping=False"
        if ranges.get("step1_share", True) == 0:
            unused["weight_decay"] = "step1_share=0 (L2 belongs to step 1)"
        return unused

    def _checked(self, name: str) -> Any:
        spec = self.ranges[name]
        if name == "learning_rate":
            return {key: self._checked_spec(name, rate) for key, rate in spec.items()}
        return self._checked_spec(name, spec)

    def _checked_spec(self, name: str, spec: Any) -> Any:
        """A range in its normal form: numbers of one type."""
        usual = PARAMETERS[name].usual
        usual = usual["adam"] if isinstance(usual, dict) else usual
        if not isinstance(spec, (tuple, list)):
            self._check(name, spec)
            return float(spec) if isinstance(usual[0], float) else spec
        for value in spec:
            self._check(name, value)
        if isinstance(usual[0], float):
            spec = type(spec)(map(float, spec))
        if isinstance(spec, list):
            if not spec or len(set(spec)) < len(spec):
                raise _bad_range(name, spec, "a list of different choices")
            return spec if len(spec) > 1 else spec[0]
        if isinstance(usual, list) and name != "width":
            raise _bad_range(name, spec, f"a list of choices, such as {usual}")
        if len(spec) != 2 or not spec[0] < spec[1]:
            raise _bad_range(name, spec, "a tuple (lowest, highest)")
        if PARAMETERS[name].log and spec[0] <= 0:
            hint = "; clipping=[True, False] switches it off" if "clip" in name else ""
            raise _bad_range(name, spec, f"above 0, on a logarithmic scale{hint}")
        return spec

    def _check(self, name: str, value: Any) -> None:
        """Check one value as recipe and network do."""
        if value is None or isinstance(value, (tuple, list, dict)):
            raise _bad_range(name, value, "made of single values")
        if name == "clipping":
            one_of(name, value, (True, False))
        elif isinstance(value, float) and not math.isfinite(value):
            raise _bad_range(name, value, "finite")
        elif name == "step1_share":
            if isinstance(value, (bool, str)) or not 0 <= value < 1:
                raise _bad_range(name, value, "at least 0 and below 1")
        else:
            recipe = Recipe(name="check", dataset="imagenet", model=self.model)
            recipe.replace(norm=self.norm, **{name: value})


def recipe_settings(values: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Turn values of hyperparameters into settings of a `training.Recipe`.

    Args:
        values: Name, of those in `PARAMETERS`, to value. keras-tuner's own entries
            (`"tuner/..."`) are passed over; `"sgd_learning_rate"` counts for SGD.
        epochs: Epochs of both steps together.

    Returns:
        Settings for `Recipe.replace`.

    Raises:
        UserError: If there is no such hyperparameter.
    """
    settings = {k: v for k, v in values.items() if not k.startswith("tuner/")}
    for optimizer in OPTIMIZERS:
        rate = settings.pop(f"{optimizer}_learning_rate", None)
        if rate is not None and optimizer == settings.get("optimizer", "adam"):
            settings["learning_rate"] = rate
    for name in settings:
        one_of("the name of a hyperparameter", name, PARAMETERS)
    settings = {k: v for k, v in settings.items() if v is not None}
    if not settings.pop("clipping", True):
        settings["clip_factor"] = 0.0
    share = settings.pop("step1_share", 0.5)
    # The network that is evaluated gets at least one epoch.
    first = min(round(share * epochs), epochs - 1)
    return {**settings, "step1_epochs": first, "epochs": epochs - first}


def _options(spec: Any) -> list:
    return list(spec) if isinstance(spec, (tuple, list)) else [spec]


def _rates(spec: Any, optimizers: list[str]) -> dict[str, Any]:
    """The learning rate's range for each optimizer, or one for all."""
    if not isinstance(spec, dict):
        return {"all": spec}
    for name in spec:
        one_of("the optimizer of a learning_rate", name, OPTIMIZERS)
    missing = [name for name in optimizers if name not in spec]
    if missing:
        raise UserError(
            "`learning_rate` must have a range for each optimizer",
            got=f"none for {', '.join(missing)}",
            fix="add it, or give one range for all",
        )
    return {name: spec[name] for name in optimizers}


def _is_range(spec: Any) -> bool:
    return isinstance(spec, (tuple, list))


def _words(spec: Any, name: str) -> str:
    if spec is None:
        return "left out"
    if isinstance(spec, dict):
        return "; ".join(f"{key}: {_words(rate, name)}" for key, rate in spec.items())
    if isinstance(spec, tuple):
        scale = ", log scale" if PARAMETERS[name].log else ""
        return f"from {spec[0]} to {spec[1]}{scale}"
    if isinstance(spec, list):
        return f"one of {', '.join(map(str, spec))}"
    return str(spec)


def _bad_range(name: str, spec: Any, expected: str) -> UserError:
    usual = PARAMETERS[name].usual
    return UserError(
        f"The range of `{name}` must be {expected}",
        got=f"{name}={spec!r}",
        fix=f"the usual one is {usual!r}; a single value fixes it",
    )
