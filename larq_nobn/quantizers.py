"""Quantizers that the BN-free networks need and Larq does not have.

They follow Larq's protocol (a layer with `precision`), so they work wherever Larq takes
a quantizer, by instance or by the strings `"scaled_sign"` and `"sigmoid_sign"`.
"""

import larq as lq
import tensorflow as tf

from larq_nobn._fusion import channel_sum, factored, fused
from larq_nobn._registration import register
from larq_nobn.math import approx_sign, binarize, scaled_signs


def scaled_sign(x: tf.Tensor, clip_value: float | None = 1.0) -> tf.Tensor:
    r"""Binarize a kernel to one magnitude per output channel.

    \\[ q(w) = c \, \mathrm{sign}(w), \quad c = \mathrm{mean}|w| \\]

    with the mean over all axes but the last. The gradient passes straight through where
    \\(|w| \le\\) `clip_value`, with factor 1 (Larq's `MagnitudeAwareSign` has the extra
    factor \\(c\\)), and none flows through \\(c\\). The result is exactly
    \\(\pm c\\) per channel, which converters need to recognize a binary kernel.

    Args:
        x: Kernel of shape `(..., out_channels)`.
        clip_value: Threshold of the straight-through estimator; `None` for none.

    Returns:
        Tensor of the shape and dtype of `x`.
    """
    x = tf.convert_to_tensor(x)
    fan_in = tf.cast(tf.size(x) / tf.shape(x)[-1], x.dtype)
    scale = channel_sum(tf.abs(tf.stop_gradient(x))) / fan_in

    @tf.custom_gradient
    def _call(x):
        def grad(dy):
            if clip_value is None:
                return dy
            return _clip_gradient(x, *factored(dy), clip_value)

        return scaled_signs(x, scale, x.dtype), grad

    return _call(x)


@fused
def _clip_gradient(x, dy, factor, clip_value):
    dy = tf.cast(factor * dy, x.dtype)
    return tf.where(tf.abs(x) <= clip_value, dy, tf.zeros_like(dy))


def sigmoid_sign(x: tf.Tensor, slope: float = 3.0, skip: bool = False) -> tf.Tensor:
    r"""Sign with the derivative of a scaled sigmoid as pseudo-gradient.

    \\[ q'(x) = 2 k \, \sigma(kx) \, (1 - \sigma(kx)) \\]

    Args:
        x: Activations of any shape.
        slope: \\(k\\).
        skip: As in `larq_nobn.math.binarize`.

    Returns:
        Tensor of the shape and dtype of `x`, with values -1 and 1.
    """
    x = tf.convert_to_tensor(x)
    return binarize(x, _sigmoid_sign_gradient, float(slope), skip=skip)


def _sigmoid_sign_gradient(x, dy, slope):
    s = tf.sigmoid(slope * x)
    return dy * (2 * slope) * s * (1 - s)


def is_training(training) -> bool:
    """Not where it is a tensor or unknown: gradients of all tensors must exist then."""
    return isinstance(training, bool | int) and bool(training)


@lq.utils.register_alias("scaled_sign")
@register
class ScaledSign(lq.quantizers.Quantizer):
    r"""Kernel quantizer \\(q(w) = \mathrm{mean}|w| \cdot \mathrm{sign}(w)\\).

    The binary kernel of XNOR-Net (arXiv 1603.05279), ReActNet (arXiv 2003.03488) and of
    "BNN - BN = ?" (arXiv 2104.08215), one magnitude per output channel. See
    `larq_nobn.quantizers.scaled_sign` for the gradient.

    Args:
        clip_value: Threshold of the straight-through estimator; `None` for none.

    Example:
        >>> lq.layers.QuantConv2D(64, 3, kernel_quantizer=ScaledSign())
    """

    precision = 1

    def __init__(self, clip_value: float | None = 1.0, **kwargs):
        if clip_value is not None and not clip_value > 0:
            raise ValueError(
                "`clip_value` must be a positive number or None. "
                f"Received: clip_value={clip_value!r}. Fix: 1.0 is the usual choice."
            )
        super().__init__(**kwargs)
        self.clip_value = clip_value

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Binarize the kernel; shape and dtype stay."""
        return scaled_sign(inputs, self.clip_value)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "clip_value": self.clip_value}


@register
class FusedApproxSign(lq.quantizers.Quantizer):
    """Larq's `ApproxSign`, the same numbers in a third of the time on a CPU.

    The activation quantizer of Bi-Real Net (arXiv 1808.00278), ReActNet and
    "BNN - BN = ?". See `larq_nobn.math.approx_sign`. The string `"approx_sign"` is
    Larq's own.
    """

    precision = 1

    def call(self, inputs: tf.Tensor, training=None) -> tf.Tensor:
        """Binarize the activations; shape and dtype stay."""
        return approx_sign(tf.convert_to_tensor(inputs), skip=is_training(training))


@lq.utils.register_alias("sigmoid_sign")
@register
class SigmoidSign(lq.quantizers.Quantizer):
    r"""Activation quantizer with a sigmoid surrogate gradient (A&B BNN, CVPR 2024).

    See `larq_nobn.quantizers.sigmoid_sign`.

    Args:
        slope: Steepness \\(k\\) of the sigmoid; 3 in A&B BNN.
    """

    precision = 1

    def __init__(self, slope: float = 3.0, **kwargs):
        if not slope > 0:
            raise ValueError(
                f"`slope` must be a positive number. Received: slope={slope!r}. "
                "Fix: 3.0 is A&B BNN's choice."
            )
        super().__init__(**kwargs)
        self.slope = slope

    def call(self, inputs: tf.Tensor, training=None) -> tf.Tensor:
        """Binarize the activations; shape and dtype stay."""
        return sigmoid_sign(inputs, self.slope, skip=is_training(training))

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "slope": self.slope}
