"""Quantizers that the BN-free networks need and Larq does not have.

They follow Larq's protocol (a layer with `precision`), so they work wherever Larq takes
a quantizer, by instance or by the strings `"scaled_sign"` and `"sigmoid_sign"`.
"""

import larq as lq
import tensorflow as tf

from larq_nobn import math, ops
from larq_nobn._errors import UserError, check_number
from larq_nobn._larq import MeasuredQuantizer
from larq_nobn._registration import register
from larq_nobn.ops import scaled_sign, sigmoid_sign

__all__ = [
    "FusedApproxSign",
    "ScaledSign",
    "SigmoidSign",
    "scaled_sign",
    "sigmoid_sign",
]


def get_quantizer(argument: str, identifier: object):
    """`lq.quantizers.get`, whose error says which names there are.

    Raises:
        UserError: If it is no quantizer.
    """
    try:
        return lq.quantizers.get(identifier)
    except ValueError as error:
        if isinstance(identifier, dict):
            raise
        names = ", ".join(
            repr(name)
            for name, cls in sorted(tf.keras.utils.get_custom_objects().items())
            if name.islower()
            and isinstance(cls, type)
            and issubclass(cls, lq.quantizers.Quantizer)
        )
        raise UserError(
            f"`{argument}` must be a quantizer, or one of {names}",
            got=f"{argument}={identifier!r}",
            fix="choose one of the names above",
        ) from error


def has_surrogate(quantizer: object) -> bool:
    """Whether a quantizer is a sign with the gradient that its `surrogate` says.

    Not a subclass that has another `call`, and what it inherits beside it.
    """
    return "surrogate" in vars(_owner_of_call(quantizer))


def is_channelwise(quantizer: object) -> bool:
    """Whether a kernel quantizer gives ±c in each output channel, and says so.

    It then has the class attribute `channelwise = True` and a method `standardized`, as
    `ScaledSign` has: its convolutions are of whole numbers at inference, and its
    kernels are published at one bit a weight. Not a subclass that has another `call`.
    """
    return vars(_owner_of_call(quantizer)).get("channelwise", False)


def _owner_of_call(quantizer: object) -> type:
    return next((c for c in type(quantizer).__mro__ if "call" in vars(c)), object)


@lq.utils.register_alias("scaled_sign")
@register
class ScaledSign(MeasuredQuantizer):
    r"""Kernel quantizer \\(q(w) = \mathrm{mean}|w| \cdot \mathrm{sign}(w)\\).

    The binary kernel of XNOR-Net (arXiv 1603.05279), ReActNet (arXiv 2003.03488) and of
    "BNN - BN = ?" (arXiv 2104.08215), one magnitude per output channel. See
    `larq_nobn.quantizers.scaled_sign` for the gradient.

    Args:
        clip_value: Threshold of the straight-through estimator; `None` for none.
        **kwargs: As in Larq's quantizers: `metrics=["flip_ratio"]`.

    Example:
        >>> lq.layers.QuantConv2D(64, 3, kernel_quantizer=ScaledSign())
    """

    precision = 1
    channelwise = True

    def __init__(self, clip_value: float | None = 1.0, **kwargs):
        if clip_value is not None:
            check_number("clip_value", clip_value, "1.0 is the usual choice, or None")
        super().__init__(**kwargs)
        self.clip_value = clip_value

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Binarize the kernel; shape and dtype stay."""
        outputs = scaled_sign(tf.convert_to_tensor(inputs), self.clip_value)
        return self.measured(outputs)

    def standardized(
        self,
        kernel: tf.Tensor,
        gain: tf.Tensor,
        gamma: float,
        eps: float,
        dtype: tf.DType,
    ) -> tf.Tensor:
        """The whole kernel of a `ScaledWSConv2D`; see `math.binary_ws_kernel`."""
        return ops.binary_ws_kernel(kernel, gain, gamma, eps, self.clip_value, dtype)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "clip_value": self.clip_value}


@register
class FusedApproxSign(MeasuredQuantizer):
    """Larq's `ApproxSign`, the same numbers in a third of the time on a CPU.

    The activation quantizer of Bi-Real Net (arXiv 1808.00278), ReActNet and
    "BNN - BN = ?". See `larq_nobn.math.approx_sign`. The string `"approx_sign"` is
    Larq's own.
    """

    precision = 1
    surrogate = (math.approx_sign_gradient,)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Binarize the activations; shape and dtype stay."""
        return self.measured(ops.approx_sign(tf.convert_to_tensor(inputs)))


@lq.utils.register_alias("sigmoid_sign")
@register
class SigmoidSign(MeasuredQuantizer):
    r"""Activation quantizer with a sigmoid surrogate gradient (A&B BNN, CVPR 2024).

    See `larq_nobn.quantizers.sigmoid_sign`.

    Args:
        slope: Steepness \\(k\\) of the sigmoid; 3 in A&B BNN.
        **kwargs: As in Larq's quantizers: `metrics=["flip_ratio"]`.
    """

    precision = 1

    def __init__(self, slope: float = 3.0, **kwargs):
        check_number("slope", slope, "3.0 is A&B BNN's choice")
        super().__init__(**kwargs)
        self.slope = slope

    @property
    def surrogate(self) -> tuple:
        """Gradient of the sign, and its arguments: as `ops.binarize` takes them."""
        return math.sigmoid_sign_gradient, float(self.slope)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Binarize the activations; shape and dtype stay."""
        return self.measured(sigmoid_sign(tf.convert_to_tensor(inputs), self.slope))

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "slope": self.slope}
