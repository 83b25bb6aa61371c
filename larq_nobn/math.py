r"""The formulas of "BNN - BN = ?" (arXiv 2104.08215) and its parts, plainly.

This is what the layers compute. `larq_nobn.ops` has the same functions under the same
names, in fewer passes over memory, and layers call those; the tests compare the two,
value and gradient. Kernels have Keras's layout, the output channel last: the axes of
one unit are all but the last.
"""

import functools
import math
from collections.abc import Callable, Sequence

import tensorflow as tf


def is_half(x: object) -> bool:
    """Whether something is a tensor of half precision."""
    return tf.is_tensor(x) and x.dtype.is_floating and x.dtype.size < 4


def at_least_float32(x: object) -> object:
    """A tensor of half precision in float32; anything else as it is."""
    return tf.cast(x, tf.float32) if is_half(x) else x


def in_float32(function: Callable) -> Callable:
    """Let a function compute half precision in float32, and round its results.

    Statistics in half precision lose the sign of weights near the mean, and long sums
    stand still.

    Args:
        function: Maps tensors and other arguments to a tensor.

    Returns:
        The function; the result has the dtype of the first tensor.
    """

    @functools.wraps(function)
    def call(*args, **kwargs):
        dtype = next(x.dtype for x in args if tf.is_tensor(x))
        return tf.cast(function(*map(at_least_float32, args), **kwargs), dtype)

    return call


def _constant(value: float, like: tf.Tensor) -> tf.Tensor:
    # Not tf.cast of the Python number, which would round it to float32.
    return tf.constant(value, like.dtype)


@in_float32
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
    axis = list(range(kernel.shape.rank - 1) if axis is None else axis)
    fan_in = math.prod(kernel.shape[i] for i in axis)
    centred = kernel - tf.reduce_mean(kernel, axis, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis, keepdims=True)
    # A constant channel has deviation 0, where the root has no gradient: take 0.
    varies = variance > 0
    std = tf.where(varies, tf.sqrt(tf.where(varies, variance, 1)), 0)
    divisor = std + _constant(eps, kernel) if eps else tf.where(varies, std, 1)
    return _constant(gamma * fan_in**-0.5, kernel) * centred / divisor


def scale_channels(
    kernel: tf.Tensor, gain: tf.Tensor, dtype: tf.DType | None = None
) -> tf.Tensor:
    r"""Multiply each output channel of a kernel by its gain: \\(g \hat w\\).

    "BNN - BN = ?" (arXiv 2104.08215), Section 3.2.

    Args:
        kernel: Tensor of shape `(..., out_channels)`.
        gain: Tensor of shape `(1, ..., 1, out_channels)`.
        dtype: Of the result; by default the kernel's.

    Returns:
        Tensor of the kernel's shape.
    """
    return tf.cast(kernel * tf.cast(gain, kernel.dtype), dtype or kernel.dtype)


@in_float32
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

    @tf.custom_gradient
    def call(x):
        def grad(dy):
            if clip_value is None:
                return dy
            return tf.where(tf.abs(x) <= _constant(clip_value, x), dy, 0)

        magnitude = tf.reduce_mean(tf.abs(x), list(range(x.shape.rank - 1)))
        return magnitude * sign(x), grad

    return call(x)


def binary_ws_kernel(
    kernel: tf.Tensor,
    gain: tf.Tensor,
    gamma: float = 1.0,
    eps: float = 1e-5,
    clip_value: float | None = 1.0,
    dtype: tf.DType | None = None,
) -> tf.Tensor:
    r"""Standardize, binarize and scale a kernel.

    \\[ g \, c \, \mathrm{sign}(\hat w), \quad c = \mathrm{mean}|\hat w| \\]

    The binary kernel of "BNN - BN = ?" (arXiv 2104.08215), Section 3.2.

    Args:
        kernel: Tensor of shape `(..., out_channels)`; half precision computes in
            float32.
        gain: \\(g\\), of shape `(1, ..., 1, out_channels)`.
        gamma: As in `scaled_weight_standardization`.
        eps: As in `scaled_weight_standardization`.
        clip_value: As in `scaled_sign`.
        dtype: Of the result; by default the kernel's.

    Returns:
        Tensor of the kernel's shape.
    """
    dtype = dtype or kernel.dtype
    kernel, gain = map(at_least_float32, (kernel, gain))
    standardized = scaled_weight_standardization(kernel, gamma, eps)
    return scale_channels(scaled_sign(standardized, clip_value), gain, dtype)


@in_float32
def shift_channels(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Add a bias to each channel: ReActNet's (arXiv 2003.03488) learnable bias.

    Args:
        x: Tensor of shape `(..., channels)`.
        bias: Tensor of shape `(channels,)`.

    Returns:
        Tensor of the shape and dtype of `x`.
    """
    return x + bias


@in_float32
def multiply(x: tf.Tensor, factor: float) -> tf.Tensor:
    r"""Multiply by a constant: \\(\beta x\\), arXiv 2104.08215, Section 3.1.

    Args:
        x: Tensor of any shape.
        factor: The constant.

    Returns:
        Tensor of the shape and dtype of `x`.
    """
    return _constant(factor, x) * x


@in_float32
def rprelu(
    x: tf.Tensor, bias_in: tf.Tensor, slope: tf.Tensor, bias_out: tf.Tensor
) -> tf.Tensor:
    r"""ReActNet's PReLU with shifts (arXiv 2003.03488, equation 3).

    \\[ y = \mathrm{PReLU}(x + b_{in}) + b_{out} \\]

    Args:
        x: Tensor of shape `(..., channels)`.
        bias_in: \\(b_{in}\\), of shape `(channels,)`.
        slope: Factor on negative values, of shape `(channels,)`.
        bias_out: \\(b_{out}\\), of shape `(channels,)`.

    Returns:
        Tensor of the shape and dtype of `x`.
    """
    x = x + bias_in
    return tf.where(x >= 0, x, slope * x) + bias_out


@in_float32
def scaled_add(residual: tf.Tensor, shortcut: tf.Tensor, alpha: float) -> tf.Tensor:
    r"""\\(\alpha f + r\\), "BNN - BN = ?" (arXiv 2104.08215), Section 3.1.

    Args:
        residual: \\(f\\), of any shape.
        shortcut: \\(r\\), of the same shape.
        alpha: \\(\alpha\\).

    Returns:
        Tensor of their shape and dtype.
    """
    return _constant(alpha, residual) * residual + shortcut


def sign(x: tf.Tensor) -> tf.Tensor:
    """Return -1 where x < 0, 1 elsewhere; shape and dtype stay, and so do NaNs."""
    one = tf.ones_like(x)
    return tf.where(tf.math.is_nan(x), x, tf.where(x < 0, -one, one))


def approx_sign_gradient(x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    """Gradient of `approx_sign`'s input, of its output's gradient `dy`."""
    x = tf.abs(x)
    return tf.where(x <= 1, (1 - x) * 2 * dy, tf.zeros_like(dy))


def sigmoid_sign_gradient(x: tf.Tensor, dy: tf.Tensor, slope: float) -> tf.Tensor:
    """Gradient of `sigmoid_sign`'s input, of its output's gradient `dy`."""
    s = tf.sigmoid(slope * x)
    return dy * (2 * slope) * s * (1 - s)


@in_float32
def binarize(x: tf.Tensor, surrogate: Callable, *arguments: float) -> tf.Tensor:
    """Sign whose gradient is another function's.

    Args:
        x: Activations of any shape.
        surrogate: Maps `x`, the gradient of the result and `arguments` to the gradient
            of `x`, element by element.
        *arguments: Numbers.

    Returns:
        Tensor of the shape and dtype of `x`, with values -1 and 1.
    """

    @tf.custom_gradient
    def call(x):
        return sign(x), lambda dy: surrogate(x, dy, *arguments)

    return call(x)


def approx_sign(x: tf.Tensor) -> tf.Tensor:
    r"""Sign with the derivative of Bi-Real Net's piecewise polynomial.

    \\[ q'(x) = 2 - 2|x| \text{ where } |x| \le 1, \text{ else } 0 \\]

    (arXiv 1808.00278, Section 3.3.)

    Args:
        x: Activations of any shape.

    Returns:
        Tensor of the shape and dtype of `x`, with values -1 and 1.
    """
    return binarize(x, approx_sign_gradient)


def sigmoid_sign(x: tf.Tensor, slope: float = 3.0) -> tf.Tensor:
    r"""Sign with the derivative of a scaled sigmoid (A&B BNN, arXiv 2403.03739).

    \\[ q'(x) = 2 k \, \sigma(kx) \, (1 - \sigma(kx)) \\]

    Args:
        x: Activations of any shape.
        slope: \\(k\\).

    Returns:
        Tensor of the shape and dtype of `x`, with values -1 and 1.
    """
    return binarize(x, sigmoid_sign_gradient, float(slope))


def residual_input(
    x: tf.Tensor,
    activation: Sequence[tf.Tensor],
    factor: float,
    bias: tf.Tensor | None,
    surrogate: Callable,
    *arguments: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    r"""What a residual unit starts with: signs for its branch, and its shortcut.

    \\[ r = \mathrm{RPReLU}(x), \quad s = \mathrm{sign}(\beta r + b) \\]

    The activation is that behind the unit before ("BNN - BN = ?", arXiv 2104.08215,
    Section 3.1).

    Args:
        x: Tensor of shape `(..., channels)`.
        activation: The three tensors of `rprelu`; empty where there is none (r is x).
        factor: \\(\beta\\), not 0.
        bias: \\(b\\), of shape `(channels,)`, or `None`.
        surrogate: As in `binarize`.
        *arguments: As in `binarize`.

    Returns:
        \\(s\\) and \\(r\\), both of the shape and dtype of `x`.
    """
    dtype = x.dtype
    x, *activation = (at_least_float32(x) for x in (x, *activation))
    shortcut = rprelu(x, *activation) if activation else x
    shifted = multiply(shortcut, factor)
    if bias is not None:
        shifted = shift_channels(shifted, at_least_float32(bias))
    signs = binarize(shifted, surrogate, *arguments)
    return tf.cast(signs, dtype), tf.cast(shortcut, dtype)


def conv2d(
    x: tf.Tensor, kernel: tf.Tensor, strides: Sequence[int], padding: str
) -> tf.Tensor:
    """Convolve.

    Args:
        x: Tensor of shape `(batch, height, width, channels)`.
        kernel: Tensor of shape `(height, width, channels, filters)`.
        strides: In height and width.
        padding: `"SAME"` or `"VALID"`.

    Returns:
        Tensor of shape `(batch, new height, new width, filters)`.
    """
    return tf.nn.conv2d(x, kernel, strides, padding)


def round_straight_through(x: tf.Tensor) -> tf.Tensor:
    """Round to the nearest integer, halves to even; the gradient is the identity's.

    Args:
        x: Tensor of any shape.

    Returns:
        Tensor of the shape and dtype of `x`.
    """

    @tf.custom_gradient
    def call(x):
        return tf.round(x), lambda dy: dy

    return call(tf.convert_to_tensor(x))


def unitwise_norm(x: tf.Tensor, units: Sequence[int] | None = None) -> tf.Tensor:
    """L2 norm per output unit, as AGC needs it.

    Args:
        x: Tensor in Keras layout. Rank 0 and 1 (biases, slopes) count as one unit; from
            rank 2 on each index of the last axis (the output channel) is one.
        units: The axes whose indices number the units, where that is not so: `(2, 3)`
            for a depthwise kernel of shape `(height, width, channels, multiplier)`.

    Returns:
        Tensor that broadcasts against `x`: of its size along the units' axes, 1 along
        the others.
    """
    rank = x.shape.rank
    if units is None:
        units = () if rank < 2 else (rank - 1,)
    axis = [i for i in range(rank) if i not in {j % rank for j in units}]
    return tf.sqrt(tf.reduce_sum(tf.square(x), axis, keepdims=True))


def agc_scale(
    gradient: tf.Tensor,
    parameter: tf.Tensor,
    clip_factor: float,
    eps: float,
    units: Sequence[int] | None = None,
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
        units: As in `unitwise_norm`.

    Returns:
        Tensor of the shape of `unitwise_norm(gradient, units)`, in at least float32: 1
        where nothing is clipped.
    """
    norms = [unitwise_norm(at_least_float32(x), units) for x in (gradient, parameter)]
    return clipping_factor(*norms, clip_factor, eps)


def clipping_factor(
    norm: tf.Tensor, parameter_norm: tf.Tensor, clip_factor: float, eps: float
) -> tf.Tensor:
    """`agc_scale` of the norms of gradient and parameter."""
    max_norm = tf.maximum(parameter_norm, eps) * clip_factor
    # The official code's 1e-6 guards the division; with its λ and ε it has no effect.
    return tf.where(norm >= max_norm, max_norm / tf.maximum(norm, 1e-6), 1)


def adaptive_gradient_clip(
    gradient: tf.Tensor,
    parameter: tf.Tensor,
    clip_factor: float = 0.02,
    eps: float = 1e-3,
    units: Sequence[int] | None = None,
) -> tf.Tensor:
    """Clip a gradient unit by unit to `clip_factor` of its parameter's norm.

    Args:
        gradient: Dense gradient of the parameter.
        parameter: The parameter, of the same shape.
        clip_factor: The largest ratio of gradient to parameter norm.
        eps: Floor of the parameter norm.
        units: As in `unitwise_norm`.

    Returns:
        Tensor of the gradient's shape and dtype. See `agc_scale` for the formula.
    """
    scale = agc_scale(gradient, parameter, clip_factor, eps, units)
    return gradient * tf.cast(scale, gradient.dtype)
