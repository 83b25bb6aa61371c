"""The formulas of the method as pure functions; the Keras classes only hold state."""

from collections.abc import Callable, Sequence

import larq as lq
import numpy as np
import tensorflow as tf

from larq_nobn._fusion import (
    Affine,
    Again,
    Branch,
    Gradients,
    channel_sum,
    elementwise,
    factored,
    fused,
    fused_sums,
    note,
    note_sum,
    number,
    origin,
    precise_sum,
    shared,
)


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
    gamma, eps = float(gamma), float(eps)
    rank = kernel.shape.rank
    if axis is None or sorted(i % rank for i in axis) == list(range(rank - 1)):
        return tf.cast(_standardize(kernel, gamma, eps), dtype)
    # The others become the last axis, and that a matrix's.
    units = [i for i in range(rank) if i not in {j % rank for j in axis}]
    order = [i for i in range(rank) if i not in units] + units
    turned = tf.transpose(kernel, order)
    matrix = tf.reshape(turned, [-1, np.prod([kernel.shape[i] for i in units])])
    standardized = tf.reshape(_standardize(matrix, gamma, eps), turned.shape)
    return tf.cast(tf.transpose(standardized, np.argsort(order)), dtype)


def _standardize(kernel: tf.Tensor, gamma: float, eps: float) -> tf.Tensor:
    @tf.custom_gradient
    def _call(kernel):
        standardized, mean, std = _standardized(kernel, gamma, eps)

        def grad(dy):
            return _standardization_gradient(kernel, dy, mean, std, gamma, eps)

        return standardized, grad

    return _call(kernel)


def _fan_in(kernel: tf.Tensor) -> int:
    return np.prod(kernel.shape[:-1])


def _positive(std: tf.Tensor, eps: float) -> tf.Tensor:
    """What to divide by; 1 in constant channels, which are zero anyway."""
    return std + eps if eps else tf.where(std > 0, std, tf.ones_like(std))


def _factor(fan_in: int, std: tf.Tensor, gamma: float, eps: float) -> tf.Tensor:
    """What multiplies w - mean."""
    return gamma * fan_in**-0.5 / _positive(std, eps)


@shared
def _standardized(kernel, gamma, eps):
    fan_in = _fan_in(kernel)
    mean = channel_sum(kernel) / fan_in
    (squares,) = _squared_difference(kernel, mean)
    std = tf.sqrt(squares / fan_in)
    factor = _factor(fan_in, std, gamma, eps)
    return _difference_times(kernel, mean, factor), mean, std


def _slope(
    fan_in: int, std: tf.Tensor, factor: tf.Tensor, correlation: tf.Tensor, eps: float
) -> tf.Tensor:
    """What multiplies w - mean in the gradient, by way of the deviation."""
    # A constant channel has no direction in which its deviation grows.
    return tf.math.divide_no_nan(
        factor * correlation, _positive(std, eps) * std * fan_in
    )


@shared
def _standardization_gradient(kernel, dy, mean, std, gamma, eps):
    fan_in = _fan_in(kernel)
    factor = _factor(fan_in, std, gamma, eps)
    (correlation,) = _correlation(kernel, mean, dy)
    slope = _slope(fan_in, std, factor, correlation, eps)
    return _standardized_gradient(
        kernel, dy, mean, channel_sum(dy) / fan_in, factor, slope
    )


@fused_sums
def _squared_difference(x, mean):
    return [tf.square(x - mean)]


@fused_sums
def _correlation(x, mean, y):
    return [(x - mean) * y]


@fused
def _difference_times(x, mean, factor):
    return (x - mean) * factor


@fused
def _standardized_gradient(x, dy, mean, dy_mean, factor, slope):
    return (dy - dy_mean) * factor - (x - mean) * slope


def scale_channels(
    kernel: tf.Tensor, gain: tf.Tensor, dtype: tf.DType | None = None
) -> tf.Tensor:
    """Multiply each output channel of a kernel by its gain.

    Args:
        kernel: Tensor of shape `(..., out_channels)`.
        gain: Tensor of shape `(1, ..., 1, out_channels)`.
        dtype: Of the result; by default the kernel's.

    Returns:
        Tensor of the kernel's shape.
    """
    dtype = tf.as_dtype(dtype or kernel.dtype)

    @tf.custom_gradient
    def _call(kernel, gain):
        def grad(dy):
            dy, factor = factored(dy)
            (dgain,) = _sum_of_products(dy, kernel)
            dgain = tf.reshape(tf.cast(dgain, gain.dtype), gain.shape) * factor
            dkernel = note(_product(dy, factor * gain), Affine(dy, factor * gain))
            return dkernel, dgain

        return _product(kernel, gain, dtype), grad

    return _call(kernel, gain)


def binary_ws_kernel(
    kernel: tf.Tensor,
    gain: tf.Tensor,
    gamma: float = 1.0,
    eps: float = 1e-5,
    clip_value: float | None = 1.0,
    dtype: tf.DType | None = None,
) -> tf.Tensor:
    r"""Standardize, binarize and scale a kernel, in few passes over memory.

    \\[ g \, c \, \mathrm{sign}(\hat w), \quad c = \mathrm{mean}|\hat w| \\]

    The kernel of "BNN - BN = ?" (arXiv 2104.08215), Section 3.2: `scale_channels` of
    `larq_nobn.quantizers.scaled_sign` of `scaled_weight_standardization`, with their
    gradients.

    Args:
        kernel: Tensor of shape `(..., out_channels)`; half precision computes in
            float32.
        gain: \\(g\\), of shape `(1, ..., 1, out_channels)`.
        gamma: As in `scaled_weight_standardization`.
        eps: As in `scaled_weight_standardization`.
        clip_value: As in `larq_nobn.quantizers.scaled_sign`.
        dtype: Of the result; by default the kernel's.

    Returns:
        Tensor of the kernel's shape.
    """
    dtype = tf.as_dtype(dtype or kernel.dtype)
    kernel, gain = map(_at_least_float32, (kernel, gain))
    gamma, eps = float(gamma), float(eps)

    @tf.custom_gradient
    def _call(kernel, gain):
        mean, std, magnitude = _binary_statistics(kernel, gamma, eps)

        def grad(dy):
            dy, factor = factored(dy)
            scale = tf.reshape(factor * gain, [-1])
            statistics = (mean, std, magnitude)
            dkernel, dgain = _binary_gradient(
                kernel, dy, scale, *statistics, gamma, eps, clip_value
            )
            return dkernel, tf.reshape(factor * dgain, gain.shape)

        scale = magnitude * tf.reshape(gain, [-1])
        return scaled_signs(kernel, scale, dtype, mean), grad

    return _call(kernel, gain)


@shared
def _binary_statistics(kernel, gamma, eps):
    """Mean and deviation of each channel, and the mean of |ŵ|."""
    fan_in = _fan_in(kernel)
    mean = channel_sum(kernel) / fan_in
    squares, magnitudes = _binary_sums(kernel, mean)
    std = tf.sqrt(squares / fan_in)
    return mean, std, _factor(fan_in, std, gamma, eps) * magnitudes / fan_in


@shared
def _binary_gradient(kernel, dy, scale, mean, std, magnitude, gamma, eps, clip_value):
    """Gradients of kernel and gain; that of ŵ is `scale * dy` where |ŵ| <= clip."""
    fan_in = _fan_in(kernel)
    factor = _factor(fan_in, std, gamma, eps)
    # |ŵ| <= clip as a bound of |w - mean|.
    bound = mean.dtype.max if clip_value is None else clip_value / factor
    bound = tf.broadcast_to(tf.cast(bound, mean.dtype), mean.shape)
    clipped = (kernel, mean, bound, dy)
    dy_sum, correlation, dgain = _binary_gradient_sums(*clipped)
    slope = _slope(fan_in, std, factor, scale * correlation, eps)
    dkernel = _binary_standardized_gradient(
        *clipped, dy_sum / fan_in, factor * scale, slope
    )
    return dkernel, magnitude * dgain


@fused_sums
def _binary_sums(x, mean):
    x = x - mean
    return [tf.square(x), tf.abs(x)]


@fused_sums
def _binary_gradient_sums(x, mean, bound, dy):
    x, dy = x - mean, tf.cast(dy, x.dtype)
    clipped = _clip(x, bound, dy)
    return [clipped, clipped * x, dy * lq.math.sign(x)]


def _clip(difference, bound, dy):
    return tf.where(tf.abs(difference) <= bound, dy, tf.zeros_like(dy))


@fused
def _binary_standardized_gradient(x, mean, bound, dy, dy_mean, factor, slope):
    x = x - mean
    dy = _clip(x, bound, tf.cast(dy, x.dtype))
    return (dy - dy_mean) * factor - x * slope


@fused
def scaled_signs(x, scale, dtype, mean=0.0):
    """Return `scale * sign(x - mean)`."""
    return tf.cast(scale * lq.math.sign(x - mean), dtype)


@fused_sums
def _sum_of_products(x, y):
    return [x * y]


def shift_channels(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Add a bias to each channel.

    Args:
        x: Tensor of shape `(..., channels)`.
        bias: Tensor of shape `(channels,)`.

    Returns:
        Tensor of the shape and dtype of `x`.
    """

    @tf.custom_gradient
    def _call(x, bias):
        return tf.nn.bias_add(x, bias), lambda dy: (dy, channel_sum(dy))

    source, factor, earlier = origin(x, Affine) or Affine(x)
    if earlier is not None:
        source, factor = x, 1.0
    return note(_call(x, bias), Affine(source, factor, bias))


def multiply(x: tf.Tensor, factor: float) -> tf.Tensor:
    """Multiply by a constant.

    Args:
        x: Tensor of any shape.
        factor: The constant.

    Returns:
        Tensor of the shape and dtype of `x`.
    """

    @tf.custom_gradient
    def _call(x):
        return _scaled(x, factor), lambda dy: _scaled(dy, factor)

    return note(_call(x), Affine(x, factor))


def _scaled(x: tf.Tensor, factor: float) -> tf.Tensor:
    factor = number(factor, x)
    # One pass either way, but for the rounding of the factor.
    return factor * x if factor.dtype == x.dtype else _product(x, factor)


@fused
def _product(x, factor, dtype=None):
    return tf.cast(factor * x, dtype or x.dtype)


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
    how = Again(_rprelu, (x, bias_in, slope, bias_out))

    @tf.custom_gradient
    def _call(*_):
        def grad(dy):
            known = origin(dy, Gradients)
            if known and known.of is how:
                values = known.values
            else:
                values = _rprelu_gradients(how, tf.identity, dy)
            pairs = zip(values, how.arguments, strict=True)
            return [tf.cast(value, argument.dtype) for value, argument in pairs]

        return elementwise(_rprelu, *how.arguments), grad

    return note(_call(*how.arguments), how)


def _rprelu(x, bias_in, slope, bias_out):
    x = x + bias_in
    return tf.where(x >= 0, x, slope * x) + bias_out


def _rprelu_gradients(how: Again, upstream: Callable, *arguments) -> tuple:
    """Gradients of `_rprelu`'s arguments, of its result's `upstream(*arguments)`.

    Those of the channels are in at least float32.
    """
    x, bias_in, slope, _ = how.arguments
    dx = elementwise(_rprelu_gradient, x, bias_in, slope, upstream, *arguments)
    negative, dslope = _rprelu_sums(x, bias_in, upstream, *arguments)
    dbias_in = precise_sum(dx)
    # The gradients of negative values lack their slope, the others are the same.
    dbias_out = dbias_in + (1 - tf.cast(slope, negative.dtype)) * negative
    return dx, dbias_in, dslope, dbias_out


def _rprelu_gradient(x, bias_in, slope, upstream, *arguments):
    dy = upstream(*arguments)
    return tf.where(x + bias_in >= 0, dy, slope * dy)


@fused_sums
def _rprelu_sums(x, bias_in, upstream, *arguments):
    dy, x = upstream(*arguments), x + bias_in
    negative = tf.where(x >= 0, tf.zeros_like(dy), dy)
    return [negative, x * negative]


def scaled_add(
    residual: tf.Tensor, shortcut: tf.Tensor, alpha: float, skip: bool = False
) -> tf.Tensor:
    r"""\\(\alpha f + r\\), "BNN - BN = ?" (arXiv 2104.08215), Section 3.1.

    Args:
        residual: \\(f\\), of any shape.
        shortcut: \\(r\\), of the same shape.
        alpha: \\(\alpha\\).
        skip: Whether a shortcut from `rprelu` may be computed on the way, and its
            gradient be added where the residual branch's sign has its own.

    Returns:
        Tensor of their shape and dtype.
    """
    how = skip and origin(shortcut, Again) or Again(tf.identity, (shortcut,))
    branch = skip and origin(residual, Branch)
    is_source = branch and branch.source is shortcut

    @tf.custom_gradient
    def _call(*_):
        def grad(dy):
            scaled = dy
            if alpha != 1:
                scaled = note(_scaled(dy, alpha), Affine(dy, alpha))
            if not is_source:
                return scaled, dy
            branch.wait(dy)
            return scaled, None

        sum_ = elementwise(_scaled_add, residual, alpha, how.function, *how.arguments)
        return sum_, grad

    return _call(residual, shortcut)


def _scaled_add(residual, alpha, function, *arguments):
    residual = residual if alpha == 1 else alpha * residual
    return residual + function(*arguments)


def approx_sign(x: tf.Tensor, skip: bool = False) -> tf.Tensor:
    r"""Sign with the derivative of Bi-Real Net's piecewise polynomial.

    \\[ q'(x) = 2 - 2|x| \text{ where } |x| \le 1, \text{ else } 0 \\]

    (arXiv 1808.00278, Section 3.3.) Larq's `approx_sign`, in fewer passes.

    Args:
        x: Activations of any shape.
        skip: As in `binarize`.

    Returns:
        Tensor of the shape and dtype of `x`, with values -1 and 1.
    """
    return binarize(x, _approx_sign_gradient, skip=skip)


def binarize(
    x: tf.Tensor, surrogate: Callable, *arguments: float, skip: bool = False
) -> tf.Tensor:
    r"""Sign whose gradient is another function's.

    Args:
        x: Activations of any shape.
        surrogate: Maps `x`, the gradient of the result and `arguments` to the gradient
            of `x`, element by element.
        *arguments: Numbers.
        skip: Whether gradients may pass by what came in front of the sign: where `x` is
            a `shift_channels` of a `multiply`, the three compute in one pass forward
            and in one backward. `tf.GradientTape` then has no gradient of `x` itself.
            A convolution computes such signs again for its gradient, rather than keep
            them, unless they are of half precision; a gradient of that gradient takes
            these signs for constants.

    Returns:
        Tensor of the shape and dtype of `x`, with values -1 and 1.
    """
    source, factor, bias = skip and origin(x, Affine) or Affine(x)
    if bias is None or factor == 0:
        source, factor, bias = Affine(x)
    if factor != 1:
        factor = number(factor, source)
    # A source that can be computed again need not stay in memory for the gradient.
    how = skip and origin(source, Again) or Again(tf.identity, (source,))
    operands = (factor, bias, how.function, *how.arguments)
    branch = Branch(source)

    @tf.custom_gradient
    def _call(*_):
        def grad(dy):
            shortcut = branch.take()
            gradient = (_surrogate_gradient, dy, surrogate, arguments, shortcut)
            dx = elementwise(*gradient, *operands)
            if how.function is _rprelu and shortcut is not None:
                # Nothing else goes out from the source: then `dx` is of no other use.
                values = _rprelu_gradients(how, *gradient, *operands)
                note(dx, Gradients(how, values))
                note_sum(dx, values[-1])
            if bias is None:
                return dx
            dbias = precise_sum(dx)
            if shortcut is not None:
                # Both sums are gradients of the shifts around and computed anyway.
                dbias -= precise_sum(shortcut)
            return dx, tf.cast(dbias / factor, bias.dtype)

        return elementwise(_sign_of, *operands), grad

    result = _call(source) if bias is None else _call(source, bias)
    if not skip:
        return result
    note(result, branch)
    # Half as many bytes can stay in memory.
    return result if result.dtype.size < 4 else note(result, Again(_sign_of, operands))


def _sign(x):
    one = tf.ones_like(x)
    return tf.where(tf.math.is_nan(x), x, tf.where(x < 0, -one, one))


@fused
def sign(x: tf.Tensor) -> tf.Tensor:
    """Return -1 where x < 0, 1 elsewhere; shape and dtype stay, and so do NaNs."""
    return _sign(x)


def _affine(factor, bias, function, *arguments):
    x = function(*arguments)
    return x if bias is None else _times(factor, x) + bias


def _times(factor, x):
    return x if isinstance(factor, float) and factor == 1 else factor * x


def _sign_of(*operands):
    return _sign(_affine(*operands))


def _surrogate_gradient(dy, surrogate, arguments, shortcut, factor, *operands):
    dx = _times(factor, surrogate(_affine(factor, *operands), dy, *arguments))
    return dx if shortcut is None else dx + shortcut


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
    (norm,) = _unitwise_norms(x)
    return norm


def _unitwise_norms(*tensors: tf.Tensor) -> list[tf.Tensor]:
    """Norms of tensors of one shape."""
    shape = tensors[0].shape
    if shape.rank < 2:
        return [tf.sqrt(tf.reduce_sum(tf.square(x), keepdims=True)) for x in tensors]
    if shape[:-1].num_elements() == 1:
        return [tf.abs(x) for x in tensors]
    units = [1] * (shape.rank - 1) + [-1]
    return [tf.sqrt(tf.reshape(x, units)) for x in _squares(*tensors)]


@fused_sums
def _squares(*tensors):
    return [tf.square(x) for x in tensors]


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
    return _agc_scale(gradient, parameter, float(clip_factor), float(eps))


@shared
def _agc_scale(gradient, parameter, clip_factor, eps):
    parameter, gradient = _at_least_float32(parameter), _at_least_float32(gradient)
    parameter_norm, norm = _unitwise_norms(parameter, gradient)
    max_norm = tf.maximum(parameter_norm, eps) * clip_factor
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
