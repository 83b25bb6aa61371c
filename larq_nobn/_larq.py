"""Every private name of Larq that is used here: after an upgrade, look here first.

And larq-zoo, which cannot be installed on every Python.
"""

import importlib.util
import types
from collections.abc import Callable, Sequence

import larq as lq
import numpy as np
import tensorflow as tf
from larq.quantized_variable import QuantizedVariable

from larq_nobn._errors import UserError


def has_larq_zoo() -> bool:
    """Whether larq-zoo is installed."""
    return importlib.util.find_spec("larq_zoo") is not None


def import_larq_zoo() -> types.ModuleType:
    """Return the module `larq_zoo`, which registers what its networks are made of.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import larq_zoo
    except ImportError as error:
        raise UserError(
            "larq-zoo must be installed for its networks",
            got=f"an environment without it ({error})",
            fix="Python 3.10 to 3.12, where it can be installed",
        ) from error
    return larq_zoo


def has_metrics(quantizer: object) -> bool:
    """Whether a quantizer measures something on its way, such as `flip_ratio`."""
    return bool(getattr(quantizer, "_custom_metrics", None))


class MeasuredQuantizer(lq.quantizers._BaseQuantizer):
    """A quantizer with the argument `metrics` and a place in Larq's `metrics_scope`."""

    def measured(self, outputs: tf.Tensor) -> tf.Tensor:
        """Return the outputs; what Larq measures is of whole numbers, their signs."""
        if has_metrics(self):
            super().call(tf.sign(outputs))
        return outputs


class VariableSavedOtherwise(QuantizedVariable):
    """A variable that has another value where Larq saves quantized weights.

    That is `numpy()` in Larq's scope, what Keras's `get_weights` and files consist of;
    tensors in that scope are computed with.
    """

    @classmethod
    def of(
        cls, variable: tf.Variable, saved: Callable[[], np.ndarray]
    ) -> "VariableSavedOtherwise":
        """The variable, with the function that gives its value there."""
        new = cls.from_variable(variable, precision=32)
        new.saved = saved
        return new

    def numpy(self):
        """The value, as an array."""
        return self.saved() if lq.context.should_quantize() else super().numpy()


class ExtensibleQuantConv2D(lq.layers.QuantConv2D):
    """Larq's convolution, whose padding and view of the kernel may be replaced.

    Args:
        *args: As in `larq.layers.QuantConv2D`.
        **kwargs: As in `larq.layers.QuantConv2D`.
    """

    def kernel_view(self) -> Callable[[tf.Tensor], tf.Tensor] | None:
        """What the kernel is read through: its quantizer."""
        return super()._get_quantizer("kernel")

    def weight(self, name: str, variable: tf.Variable) -> tf.Variable:
        """What stands for a new weight."""
        return variable

    def padding_of_same(self, shape: Sequence[int]) -> list[tuple[int, int]]:
        """What `padding="same"` adds before and behind each spatial dimension."""
        return super()._get_spatial_padding_same(shape)

    @property
    def pads_explicitly(self) -> bool:
        """Whether inputs are padded first, and then convolved without padding."""
        return not self._is_native_padding

    def pad_explicitly(self) -> None:
        """Pad by `padding_of_same` from now on, not by the convolution itself."""
        self._is_native_padding = False

    def padded(self, inputs: tf.Tensor) -> tf.Tensor:
        """Inputs with their border of zeros."""
        return tf.pad(inputs, self._get_padding_same(inputs))

    def _get_quantizer(self, name: str):
        return self.kernel_view() if name == "kernel" else super()._get_quantizer(name)

    def _add_variable_with_custom_getter(self, name: str, **kwargs):
        make = kwargs.pop("getter")

        def getter(*args, **kwargs):
            return self.weight(name, make(*args, **kwargs))

        return super()._add_variable_with_custom_getter(name, getter=getter, **kwargs)

    def _get_spatial_padding_same(self, shape):
        return self.padding_of_same(shape)
