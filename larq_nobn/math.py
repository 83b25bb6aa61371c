"""The formulas of the method as pure functions; the Keras classes only hold state."""

from collections.abc import Sequence

import larq as lq
import tensorflow as tf

from larq_nobn._fusion import channel_sum, fused


def _at_least_float32(x: tf.Tensor) -> tf.Tensor:
    """Half-precision statistics lose the sign of weights near the mean."""
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


def scaled_weight_standardization(
    kernel: tf.Tensor,
    gamma: float = 1.0,
    eps: float = 1e-5,
    axis: Sequence[int] | None = None,
) -> tf.Tensor:
    r"""Standardize a kernel per output channel and scale it to unit output variance.

    "BNN - BN = ?" (arXiv 2104.08215), Section 3.2, after "Characterizing signal
    propagation to close the performance gap in unnormalized ResNets" (arXiv
    2101.08692), Section 4.2:

    \\[ \hat w = \gamma \, N^{-1/2} \, \frac{w - \mu}{\sigma + \epsilon} \\]

    with \\(N\\) the fan-in and \\(\sigma\\) the biased standard deviation. A constant
    channel maps to zeros, with a finite gradient.

    Args:
        kernel: Tensor of shape `(..., out_channels)`, for example HWIO.
        gamma: Gain of the nonlinearity in front of the layer; 1 for a sign.
        eps: Added to the standard deviation, outside the root.
        axis: The axes that make up one unit; all but the last by default. A depthwise
            kernel of shape `(height, width, channels, multiplier)` needs `(0, 1)`.

    Returns:
        A tensor of the kernel's shape and dtype (half precision computes in float32).
    """
    dtype = kernel.dtype
    kernel = _at_least_float32(kernel)
    axis = list(range(kernel.shape.rank - 1)) if axis is None else list(axis)
    fan_in = 1
    for i in axis:
        fan_in *= kernel.shape[i]
    centred = kernel - tf.reduce_mean(kernel, axis, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis, keepdims=True)
    # The root's gradient is infinite at 0: keep constant channels out of it.
    constant = tf.equal(variance, 0)
    std = tf.sqrt(tf.where(constant, tf.ones_like(variance), variance))
    std = tf.where(constant, tf.zeros_like(std) if eps else std, std)
    return tf.cast(centred * (gamma * fan_in**-0.5 / (std + eps)), dtype)


def rprelu(
    x: tf.Tensor, bias_in: tf.Tensor, slope: tf.Tensor, bias_out: tf.Tensor
) -> tf.Tensor:
    r"""ReActNet's PReLU with shifts (arXiv 2003.03488, equation 3).

    \\[ y = \mathrm{PReLU}(x + b_{in}) + b_{out} \\]

    Args:
        x: Tensor of shape `(..., channels)`, of rank 2 at least.
        bias_in: \\(b_{in}\\), of shape `(channels,)`.
        slope: Factor on negative values, of shape `(channels,)`.
        bias_out: \\(b_{out}\\), of shape `(channels,)`.

    Returns:
        Tensor of the shape and dtype of `x`.
    """

    @tf.custom_gradient
    def _call(x, bias_in, slope, bias_out):
        def grad(dy):
            dx, dslope = _rprelu_gradient(x, bias_in, slope, dy)
            return dx, channel_sum(dx), channel_sum(dslope), channel_sum(dy)

        return _rprelu(x, bias_in, slope, bias_out), grad

    return _call(x, bias_in, slope, bias_out)


@fused
def _rprelu(x, bias_in, slope, bias_out):
    x = x + bias_in
    return tf.where(x >= 0, x, slope * x) + bias_out


@fused
def _rprelu_gradient(x, bias_in, slope, dy):
    x = x + bias_in
    positive = x >= 0
    return tf.where(positive, dy, slope * dy), tf.where(
        positive, tf.zeros_like(dy), x * dy
    )


def scaled_add(residual: tf.Tensor, shortcut: tf.Tensor, alpha: float) -> tf.Tensor:
    r"""\\(\alpha f + r\\), "BNN - BN = ?" (arXiv 2104.08215), Section 3.1.

    Args:
        residual: \\(f\\), of any shape.
        shortcut: \\(r\\), of the same shape.
        alpha: \\(\alpha\\).

    Returns:
        Tensor of their shape and dtype.
    """
    return _scaled_add(residual, shortcut, alpha)


@fused
def _scaled_add(residual, shortcut, alpha):
    return alpha * residual + shortcut


def approx_sign(x: tf.Tensor) -> tf.Tensor:
    r"""Sign with the derivative of Bi-Real Net's piecewise polynomial.

    \\[ q'(x) = 2 - 2|x| \text{ where } |x| \le 1, \text{ else } 0 \\]

    (arXiv 1808.00278, Section 3.3.) Larq's `approx_sign`, in fewer passes.

    Args:
        x: Activations of any shape.

    Returns:
        Tensor of the shape and dtype of `x`, with values -1 and 1.
    """

    @tf.custom_gradient
    def _call(x):
        return sign(x), lambda dy: _approx_sign_gradient(x, dy)

    return _call(x)


@fused
def sign(x: tf.Tensor) -> tf.Tensor:
    """Return -1 where x < 0, 1 elsewhere; shape and dtype stay."""
    return lq.math.sign(x)


@fused
def _approx_sign_gradient(x, dy):
    x = tf.abs(x)
    return tf.where(x <= 1, (1 - x) * 2 * dy, tf.zeros_like(dy))


def round_straight_through(x: tf.Tensor) -> tf.Tensor:
    """Round to the nearest integer, halves to even; the gradient is the identity's.

    Args:
        x: Tensor of any shape.

    Returns:
        Tensor of the shape and dtype of `x`.
    """

    @tf.custom_gradient
    def _call(x):
        return tf.round(x), lambda dy: dy

    return _call(tf.convert_to_tensor(x))


def unitwise_norm(x: tf.Tensor) -> tf.Tensor:
    """L2 norm per output unit, as AGC needs it.

    Args:
        x: Tensor in Keras layout. Rank 0 and 1 (biases, slopes) count as one unit; from
            rank 2 on each index of the last axis (the output channel) is one.

    Returns:
        Tensor that broadcasts against `x`: shape `(1, ..., 1, out_channels)` for rank
        2 and more, `(1,)` for rank 1, `()` for a scalar.
    """
    axis = list(range(max(x.shape.rank - 1, min(x.shape.rank, 1))))
    return tf.sqrt(tf.reduce_sum(tf.square(x), axis, keepdims=True))


def agc_scale(
    gradient: tf.Tensor, parameter: tf.Tensor, clip_factor: float, eps: float
) -> tf.Tensor:
    r"""Factor by which adaptive gradient clipping shrinks each unit's gradient.

    "High-performance large-scale image recognition without normalization" (arXiv
    2102.06171), equation 3:

    \\[ G_i \leftarrow \lambda \frac{\max(\|W_i\|, \epsilon)}{\|G_i\|} G_i
    \quad\text{where}\quad \|G_i\| \ge \lambda \max(\|W_i\|, \epsilon) \\]

    Args:
        gradient: Dense gradient of the parameter.
        parameter: The parameter, of the same shape.
        clip_factor: \\(\lambda\\), the largest ratio of gradient to parameter norm.
        eps: Floor of the parameter norm, so that zero-initialized units can move.

    Returns:
        Tensor of the shape of `unitwise_norm(gradient)`: 1 where nothing is clipped.
    """
    parameter, gradient = _at_least_float32(parameter), _at_least_float32(gradient)
    max_norm = tf.maximum(unitwise_norm(parameter), eps) * clip_factor
    norm = unitwise_norm(gradient)
    # 1e-6 is the official code's guard; with its λ and ε it never decides.
    clipped = max_norm / tf.maximum(norm, 1e-6)
    return tf.where(norm >= max_norm, clipped, tf.ones_like(norm))


def adaptive_gradient_clip(
    gradient: tf.Tensor,
    parameter: tf.Tensor,
    clip_factor: float = 0.02,
    eps: float = 1e-3,
) -> tf.Tensor:
    """Clip a gradient unit by unit to `clip_factor` of its parameter's norm.

    Args:
        gradient: Dense gradient of the parameter.
        parameter: The parameter, of the same shape.
        clip_factor: The largest ratio of gradient to parameter norm.
        eps: Floor of the parameter norm.

    Returns:
        Tensor of the gradient's shape and dtype. See `agc_scale` for the formula.
    """
    scale = agc_scale(gradient, parameter, clip_factor, eps)
    return gradient * tf.cast(scale, gradient.dtype)
