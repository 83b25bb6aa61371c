"""The layers of batch-norm-free binary networks, on top of Larq's."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import larq as lq
import numpy as np
import tensorflow as tf

from larq_nobn import ops
from larq_nobn._errors import UserError, UserTypeError, check_number
from larq_nobn._keras2 import switch_off_autocast
from larq_nobn._larq import (
    ExtensibleQuantConv2D,
    VariableSavedOtherwise,
    has_metrics,
)
from larq_nobn._registration import register, register_layer
from larq_nobn.constraints import check_gamma_and_eps
from larq_nobn.quantizers import get_quantizer, has_surrogate, is_channelwise


class _NamedWeights:
    """Keep a layer's name in the names of its weights when Keras loads `.keras` files.

    Reports and selections of variables go by them.
    """

    def build_from_config(self, config):
        with tf.name_scope(self.name):
            super().build_from_config(config)


@register_layer("Quant_conv2d")
class QuantConv2D(_NamedWeights, ExtensibleQuantConv2D):
    """Larq's `QuantConv2D` with one more padding: `"symmetric"`.

    TensorFlow's `"same"` puts the odd pixel of a strided convolution at the end;
    PyTorch pads both sides alike. `padding="symmetric"` is PyTorch's
    `padding=kernel_size // 2`, which published binary networks use. Padding is applied
    after the input quantizer, so that zeros stay zeros.

    The arguments are those of `larq.layers.QuantConv2D`, in its order.

    Args:
        filters: Number of output channels.
        kernel_size: Height and width of the kernel.
        strides: Strides along height and width.
        padding: `"valid"`, `"same"` or `"symmetric"`.
        pad_values: The value of the padding.
        data_format: As in Keras's `Conv2D`, like those that are not listed here.
        dilation_rate: See above.
        groups: See above.
        activation: See above.
        use_bias: See above.
        input_quantizer: Larq quantizer of the input.
        kernel_quantizer: Larq quantizer of the kernel.
        kernel_initializer: See above.
        bias_initializer: See above.
        kernel_regularizer: See above.
        bias_regularizer: See above.
        activity_regularizer: See above.
        kernel_constraint: See above.
        bias_constraint: See above.
        **kwargs: What every Keras layer takes: `name`, `dtype`, `trainable`.

    Shapes:
        Input `(batch, height, width, channels)`; output
        `(batch, ceil(height / stride), ceil(width / stride), filters)` for `"same"`
        and `"symmetric"`.

    Raises:
        ValueError: If `padding` or a quantizer is unknown, or `"symmetric"` comes with
            an even kernel.
        TypeError: If the input is of integers.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        pad_values: float = 0.0,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        groups: int = 1,
        activation=None,
        use_bias: bool = True,
        input_quantizer=None,
        kernel_quantizer=None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        padding = str(padding).lower()
        if padding not in ("valid", "same", "symmetric"):
            raise UserError(
                "`padding` must be 'valid', 'same' or 'symmetric'",
                got=f"padding={padding!r}",
                fix="'symmetric' is PyTorch's padding",
            )
        self._symmetric = padding == "symmetric"
        # "symmetric" has the output shape of "same", and for stride 1 also its padding.
        super().__init__(
            filters,
            kernel_size,
            strides=strides,
            padding="same" if self._symmetric else padding,
            pad_values=pad_values,
            data_format=data_format,
            dilation_rate=dilation_rate,
            groups=groups,
            activation=activation,
            use_bias=use_bias,
            input_quantizer=get_quantizer("input_quantizer", input_quantizer),
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        # Set here, because Larq warns of starved weights whenever a binary quantizer
        # comes without a constraint; the reference networks have none.
        self.kernel_quantizer = lq.quantizers.get_kernel_quantizer(
            get_quantizer("kernel_quantizer", kernel_quantizer)
        )
        if self._symmetric and not all(size % 2 for size in self.kernel_size):
            raise UserError(
                "`padding='symmetric'` needs an odd kernel size",
                got=f"kernel_size={self.kernel_size}",
                fix="use an odd kernel, or 'same'",
            )
        if self._symmetric and max(self.strides) > 1 and max(self.kernel_size) > 1:
            self.pad_explicitly()
        # Larq sets the quantizer before Keras can track it; a quantizer with weights
        # (RSign) has to be seen as a sublayer.
        self.input_quantizer = self.input_quantizer

    def build(self, input_shape):
        """Create the weights, those of an input quantizer included."""
        quantizer = self.input_quantizer
        if isinstance(quantizer, RSign) and self.data_format == "channels_first":
            raise UserError(
                "RSign has a threshold per index of the last axis",
                got="data_format='channels_first'",
                fix="use data_format='channels_last', or a sign without weights",
            )
        if isinstance(quantizer, tf.keras.layers.Layer) and not quantizer.built:
            with tf.name_scope(quantizer.name):
                quantizer.build(input_shape)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training=None) -> tf.Tensor:
        """Quantize and convolve.

        At inference a binary convolution is of whole numbers, ±1 with ±1, and scaled
        behind: exact, whatever the order of its sums, so that a sum of zero is one in
        every runtime. In training the scale is in the kernel, which is faster.
        """
        if not inputs.dtype.is_floating:
            raise UserTypeError(
                f"The input of layer {self.name!r} must be of floating point numbers",
                got=f"dtype {inputs.dtype.name}",
                fix="tf.cast(images, tf.float32), or zoo.preprocess_input(images)",
            )
        quantizer = self.input_quantizer
        self._in_whole_numbers = (
            isinstance(training, bool | int | None)
            and not training
            and getattr(quantizer, "precision", 32) == 1
            and is_channelwise(self.kernel_quantizer)
        )
        with _keep_quantized_scope():
            return super().call(inputs)

    def convolve_signs(
        self,
        signs: tf.Tensor,
        factor: float = 1.0,
        recompute: Callable[[], tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """What `call` returns in training, of what the input quantizer has returned.

        Only for layers with `can_convolve_signs`.

        Args:
            signs: Tensor of shape `(batch, height, width, channels)`.
            factor: Multiplies the result, by way of the kernel.
            recompute: As in `ops.conv2d`.

        Returns:
            Tensor of shape `(batch, new height, new width, filters)`.
        """
        padding = self.padding
        if self.pads_explicitly:
            signs, padding, recompute = self.padded(signs), "valid", None
        with _keep_quantized_scope(), lq.context.quantized_scope(True):
            kernel = self.training_kernel(self.kernel, signs.dtype, factor)
        return ops.conv2d(signs, kernel, self.strides, padding.upper(), recompute)

    @property
    def can_convolve_signs(self) -> bool:
        """Whether nothing but a convolution of signs happens here."""
        quantizers = (self.input_quantizer, self.kernel_quantizer)
        return (
            type(self).call is QuantConv2D.call
            and type(self).convolution_op is QuantConv2D.convolution_op
            and has_surrogate(self.input_quantizer)
            and not any(map(has_metrics, quantizers))
            and self._is_plain
            and not self.use_bias
            and self.activation is tf.keras.activations.linear
            and self.activity_regularizer is None
            and not tf.is_tensor(self.pad_values)
            and self.pad_values == 0
        )

    def training_kernel(
        self, kernel: tf.Tensor, dtype: tf.DType, factor: float = 1.0
    ) -> tf.Tensor:
        """The kernel that convolves in training, of the one that Larq reads."""
        kernel = tf.cast(tf.convert_to_tensor(kernel), dtype)
        return kernel if factor == 1 else ops.multiply(kernel, factor)

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Convolve."""
        if self._in_whole_numbers:
            return self._convolve_in_whole_numbers(inputs, self.whole_kernel(kernel))
        kernel = self.training_kernel(kernel, inputs.dtype)
        if self._is_plain:
            return ops.conv2d(inputs, kernel, self.strides, self.padding.upper())
        return super().convolution_op(inputs, kernel)

    def whole_kernel(self, kernel: tf.Tensor) -> tf.Tensor:
        """The kernel at inference, ±c in each output channel."""
        return tf.convert_to_tensor(kernel)

    def _convolve_in_whole_numbers(self, inputs, kernel):
        convolve = super().convolution_op
        padding = self.padding  # Larq puts in its own for the time of a call.

        @tf.custom_gradient
        def _call(inputs, kernel):
            def grad(dy):
                with tf.GradientTape() as tape:
                    tape.watch([inputs, kernel])
                    with lq.utils.patch_object(self, "padding", padding):
                        outputs = convolve(inputs, kernel)
                return tape.gradient(outputs, [inputs, kernel], dy)

            magnitude = tf.reduce_max(
                tf.abs(kernel), list(range(kernel.shape.rank - 1))
            )
            if self.data_format == "channels_first":
                magnitude = magnitude[:, tf.newaxis, tf.newaxis]
            return convolve(inputs, tf.sign(kernel)) * magnitude, grad

        return _call(inputs, kernel)

    @property
    def _is_plain(self) -> bool:
        is_dense = self.groups == 1 and set(self.dilation_rate) == {1}
        return is_dense and self.data_format == "channels_last"

    def padding_of_same(self, shape: Sequence[int]) -> list[tuple[int, int]]:
        """What is added before and behind height and width."""
        if not self._symmetric:
            return super().padding_of_same(shape)
        return [
            (dilation * (size // 2),) * 2
            for size, dilation in zip(self.kernel_size, self.dilation_rate, strict=True)
        ]

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        config = super().get_config()
        if self._symmetric:
            config["padding"] = "symmetric"
        return config


@register_layer("ScaledWsConv2D")
class ScaledWSConv2D(QuantConv2D):
    r"""Quantized convolution with scaled weight standardization and a learned gain.

    "BNN - BN = ?" (arXiv 2104.08215), Section 3.2. The kernel that convolves is

    \\[ g \cdot q(\hat w), \quad
        \hat w = \gamma \, N^{-1/2} \, \frac{w - \mu}{\sigma + \epsilon} \\]

    with \\(g\\) a trainable gain per output channel, \\(q\\) the kernel quantizer (the
    identity without one) and \\(\mu, \sigma\\) over each output channel's fan-in
    \\(N\\). Unit-variance inputs, or binary ones, give unit-variance outputs at
    initialization without any normalization.

    Standardization and quantization run in float32 under mixed precision. In Larq's
    `quantized_scope(True)` what is saved is the quantized kernel, and a gain with which
    it gives the same outputs again.

    The positional arguments are those of Keras's `Conv2D`, in its order.

    Args:
        filters: Number of output channels.
        kernel_size: Height and width of the kernel.
        strides: Strides along height and width.
        padding: `"valid"`, `"same"` or `"symmetric"`.
        data_format: As in Keras's `Conv2D`, like the next ones.
        dilation_rate: See above.
        groups: See above.
        activation: See above.
        use_bias: The paper has none.
        kernel_initializer: See above.
        bias_initializer: See above.
        kernel_regularizer: See above.
        bias_regularizer: See above.
        activity_regularizer: See above.
        kernel_constraint: See above.
        bias_constraint: See above.
        gamma: Factor on the standardized kernel; 1 behind a sign.
        eps: Added to the standard deviation.
        **kwargs: As in `larq_nobn.layers.QuantConv2D`. `input_quantizer` is a Larq
            quantizer of the input: `"approx_sign"` or an `RSign` for binary
            activations; `kernel_quantizer` one of the standardized kernel:
            `"scaled_sign"` for the paper's binary kernel.

    Weights:
        `kernel` of shape `(height, width, channels, filters)` and `gain` of shape
        `(1, 1, 1, filters)`, so that adaptive gradient clipping treats each channel's
        gain as a unit of its own, as the reference does.

    Raises:
        ValueError: If `gamma` is not positive or `eps` negative, and as in
            `larq_nobn.layers.QuantConv2D`.

    Example:
        >>> ScaledWSConv2D(64, 3, padding="symmetric", input_quantizer="approx_sign",
        ...                kernel_quantizer="scaled_sign")
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        groups: int = 1,
        activation=None,
        use_bias: bool = False,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        *,
        gamma: float = 1.0,
        eps: float = 1e-5,
        **kwargs,
    ):
        check_gamma_and_eps(gamma, eps)
        super().__init__(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            groups=groups,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.gamma = gamma
        self.eps = eps
        if isinstance(self.kernel_quantizer, tf.keras.layers.Layer):
            # Autocasting to the compute dtype would flush small weights to 0.
            switch_off_autocast(self.kernel_quantizer)

    def build(self, input_shape):
        """Create `kernel` and `gain`."""
        super().build(input_shape)
        self.gain = self.add_weight(
            name="gain", shape=(1, 1, 1, self.filters), initializer="ones"
        )

    def add_weight(self, name=None, **kwargs):
        """Keep kernel and gain in the variable dtype, whatever the compute dtype."""
        if name in ("kernel", "gain"):
            kwargs["experimental_autocast"] = False
        return super().add_weight(name=name, **kwargs)

    def weight(self, name, variable):
        """A gain makes up for what standardization does to a quantized kernel."""
        if name != "gain":
            return variable
        return VariableSavedOtherwise.of(
            variable, lambda: self.gain_for(self.kernel.numpy())
        )

    def gain_for(self, kernel: np.ndarray) -> np.ndarray:
        """The gain with which another latent kernel convolves as this layer's does.

        Args:
            kernel: Such as the kernel of signs that this layer's has become.

        Returns:
            Array of the shape of `gain`.

        Raises:
            UserError: If there is none.
        """
        view, latent = self.kernel_view(), self.kernel.latent_variable
        old, new = (tf.cast(view(x), tf.float64).numpy() for x in (latent, kernel))
        scale, new_scale = (np.abs(x).max((0, 1, 2)) for x in (old, new))
        # A constant channel's kernel is zero, in both forms.
        ratio = np.divide(scale, new_scale, np.ones_like(scale), where=new_scale > 0)
        if np.any(np.abs(new * ratio - old) > 2e-3 * scale):
            raise UserError(
                "A quantized kernel must stay what it is when it is standardized and "
                "quantized again, so that it can be saved in place of the latent one",
                got=f"layer {self.name!r} with {self.kernel_quantizer}",
                fix="save outside of lq.context.quantized_scope(True)",
            )
        gain = tf.convert_to_tensor(self.gain).numpy()
        return (gain * ratio).astype(gain.dtype)

    def kernel_view(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """What the kernel is read through: standardize, then quantize."""
        quantize = self.kernel_quantizer

        @lq.utils.set_precision(getattr(quantize, "precision", 32))
        def standardize_and_quantize(kernel):
            kernel = tf.convert_to_tensor(kernel)
            kernel = ops.scaled_weight_standardization(kernel, self.gamma, self.eps)
            return quantize(kernel) if quantize else kernel

        return standardize_and_quantize

    def training_kernel(self, kernel, dtype, factor=1.0):
        """Standardized, quantized and scaled by the gain."""
        gain, quantize = tf.convert_to_tensor(self.gain), self.kernel_quantizer
        if factor != 1:
            gain = gain * tf.constant(factor, gain.dtype)
        latent = getattr(kernel, "latent_variable", None)
        is_measured = has_metrics(quantize)
        if is_channelwise(quantize) and latent is not None and not is_measured:
            # Equals what Larq would compute, in fewer passes.
            latent = tf.convert_to_tensor(latent)
            return quantize.standardized(latent, gain, self.gamma, self.eps, dtype)
        return ops.scale_channels(tf.convert_to_tensor(kernel), gain, dtype)

    def whole_kernel(self, kernel):
        """The binary kernel, times the gain."""
        kernel, gain = map(tf.convert_to_tensor, (kernel, self.gain))
        return ops.scale_channels(kernel, gain, self.compute_dtype)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "gamma": self.gamma, "eps": self.eps}


@register_layer("Learnable_bias")
class LearnableBias(_NamedWeights, tf.keras.layers.Layer):
    """Add a trainable shift per channel: ReActNet's (arXiv 2003.03488) learnable bias.

    Args:
        initializer: Initial value of the shift.
        **kwargs: As in every Keras layer.

    Shapes:
        Input and output `(..., channels)`; weight `bias` of shape `(channels,)`.
    """

    def __init__(self, initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.initializer = tf.keras.initializers.get(initializer)

    def build(self, input_shape):
        """Create the shift."""
        channels = _channels(self, input_shape)
        self.bias = self.add_weight(
            name="bias", shape=(channels,), initializer=self.initializer
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Add the shift."""
        return ops.shift_channels(inputs, tf.convert_to_tensor(self.bias))

    def compute_output_shape(self, input_shape):
        """The shape stays."""
        return input_shape

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        initializer = tf.keras.initializers.serialize(self.initializer)
        return {**super().get_config(), "initializer": initializer}


@register_layer("Channel_affine")
class ChannelAffine(_NamedWeights, tf.keras.layers.Layer):
    """Multiply by a factor and add an offset per channel: a batch norm at inference.

    Shapes:
        Input and output `(..., channels)`; weights `scale` and `offset` of shape
        `(channels,)`.
    """

    def build(self, input_shape):
        """Create factor and offset."""
        shape = (_channels(self, input_shape),)
        self.scale = self.add_weight("scale", shape, initializer="ones")
        self.offset = self.add_weight("offset", shape, initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Multiply and add."""
        return inputs * self.scale + self.offset

    def compute_output_shape(self, input_shape):
        """The shape stays."""
        return input_shape


@register
class RSign(_NamedWeights, lq.quantizers.Quantizer):
    r"""ReActNet's sign with a trainable threshold per channel.

    \\[ y = \mathrm{sign}(x + b) \\]

    (arXiv 2003.03488, equation 1.) A layer by itself, or the `input_quantizer` of any
    Larq layer.

    Args:
        quantizer: The sign and its pseudo-gradient; `"approx_sign"` in the paper.
        **kwargs: As in every Keras layer.

    Shapes:
        Input and output `(..., channels)`; weight `bias` of shape `(channels,)`.
    """

    def __init__(self, quantizer="approx_sign", **kwargs):
        super().__init__(**kwargs)
        self.quantizer = get_quantizer("quantizer", quantizer)
        self.precision = getattr(self.quantizer, "precision", 32)

    def build(self, input_shape):
        """Create the threshold."""
        self.bias = self.add_weight(
            name="bias", shape=(_channels(self, input_shape),), initializer="zeros"
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Shift and binarize."""
        bias = tf.convert_to_tensor(self.bias)
        return self.quantizer(ops.shift_channels(tf.convert_to_tensor(inputs), bias))

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        quantizer = lq.quantizers.serialize(self.quantizer)
        return {**super().get_config(), "quantizer": quantizer}


@register_layer("RpReLu")
class RPReLU(_NamedWeights, tf.keras.layers.Layer):
    r"""ReActNet's PReLU with shifts before and after.

    \\[ y = \mathrm{PReLU}(x + b_{in}) + b_{out}, \quad
        \mathrm{PReLU}(z) = \max(z, 0) + a \min(z, 0) \\]

    (arXiv 2003.03488, equation 3.) All three are trainable, one per channel.

    Args:
        slope_initializer: Initial value of the weight `slope`; 0.25 in the reference,
            -3 (a slope of 1/8) with `power_of_two`.
        power_of_two: Whether the weight `slope` is the slope's logarithm L as in A&B
            BNN (arXiv 2403.03739): \\(a = 2^{\mathrm{round}(L)}\\), a
            shift of bits in hardware. The gradient passes straight through the
            rounding.
        **kwargs: As in every Keras layer.

    Shapes:
        Input and output `(..., channels)`; weights `bias_in`, `slope` and `bias_out` of
        shape `(channels,)`.
    """

    def __init__(self, slope_initializer=None, power_of_two: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.power_of_two = power_of_two
        self.slope_initializer = (
            tf.keras.initializers.Constant(-3.0 if power_of_two else 0.25)
            if slope_initializer is None
            else tf.keras.initializers.get(slope_initializer)
        )

    def build(self, input_shape):
        """Create shifts and slope."""
        shape = (_channels(self, input_shape),)
        self.bias_in = self.add_weight("bias_in", shape, initializer="zeros")
        self.slope = self.add_weight("slope", shape, initializer=self.slope_initializer)
        self.bias_out = self.add_weight("bias_out", shape, initializer="zeros")
        super().build(input_shape)

    @property
    def negative_slope(self) -> tf.Tensor:
        r"""\\(a\\), the factor on negative values, of shape `(channels,)`."""
        if self.power_of_two:
            return tf.pow(
                tf.cast(2, self.slope.dtype), ops.round_straight_through(self.slope)
            )
        return tf.convert_to_tensor(self.slope)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Shift, bend, shift."""
        weights = (self.bias_in, self.negative_slope, self.bias_out)
        return ops.rprelu(inputs, *map(tf.convert_to_tensor, weights))

    def compute_output_shape(self, input_shape):
        """The shape stays."""
        return input_shape

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "slope_initializer": tf.keras.initializers.serialize(
                self.slope_initializer
            ),
            "power_of_two": self.power_of_two,
        }


# Without weights, its name need not fit the paths in older files.
@register_layer("Scale_by_constant")
class Scale(tf.keras.layers.Layer):
    r"""Multiply by a constant: \\(\beta x\\), exact in every dtype.

    "BNN - BN = ?" (arXiv 2104.08215), Section 3.1: \\(\beta\\) brings a block's input
    back to unit variance. (Keras's `Rescaling` rounds its factor to float32.)

    Args:
        factor: The constant.
        **kwargs: As in every Keras layer.

    Shapes:
        Input and output of any shape.

    Raises:
        ValueError: If `factor` is no finite number.
    """

    def __init__(self, factor: float, **kwargs):
        check_number("factor", factor, "1.0 changes nothing", negative=True)
        super().__init__(**kwargs)
        self.factor = float(factor)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Multiply."""
        return ops.multiply(tf.convert_to_tensor(inputs), self.factor)

    def compute_output_shape(self, input_shape):
        """The shape stays."""
        return input_shape

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "factor": self.factor}


@register_layer("Scaled_add")
class ScaledAdd(tf.keras.layers.Layer):
    r"""Join a residual branch and its shortcut: \\(\alpha f + r\\).

    "BNN - BN = ?" (arXiv 2104.08215), Section 3.1: \\(\alpha\\) sets how much variance
    each block adds.

    Args:
        alpha: Factor on the first input, the residual branch.
        **kwargs: As in every Keras layer.

    Shapes:
        Input `[f, r]`, two tensors of one shape; output of that shape.

    Raises:
        ValueError: If `alpha` is no finite number.
    """

    def __init__(self, alpha: float = 1.0, **kwargs):
        check_number("alpha", alpha, "0.2 is the paper's choice", negative=True)
        super().__init__(**kwargs)
        self.alpha = float(alpha)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return `alpha * f + r`."""
        return ops.scaled_add(*map(tf.convert_to_tensor, inputs), self.alpha)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "alpha": self.alpha}


@register_layer("Symmetric_max_pooling2d")
class SymmetricMaxPooling2D(tf.keras.layers.MaxPooling2D):
    """Max pooling padded alike on both sides, as PyTorch's `padding=pool_size // 2`.

    Args:
        pool_size: Height and width of the window, odd.
        strides: Strides; by default the pool size.
        **kwargs: As in every Keras layer.

    Shapes:
        Input `(batch, height, width, channels)`; output
        `(batch, ceil(height / stride), ceil(width / stride), channels)`.

    Raises:
        ValueError: If the pool size is even, or the data format is not channels last.
    """

    def __init__(self, pool_size=3, strides=None, **kwargs):
        kwargs.pop("padding", None)
        super().__init__(pool_size, strides, padding="same", **kwargs)
        if not all(size % 2 for size in self.pool_size):
            raise UserError(
                "SymmetricMaxPooling2D needs an odd pool size",
                got=f"pool_size={self.pool_size}",
                fix="use an odd one, or MaxPooling2D",
            )
        if self.data_format != "channels_last":
            raise UserError(
                "SymmetricMaxPooling2D needs channels last",
                got=f"data_format={self.data_format!r}",
                fix="tf.transpose the input, or MaxPooling2D",
            )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Pad with what never is a maximum, then pool."""
        pad = [[0, 0], *([size // 2] * 2 for size in self.pool_size), [0, 0]]
        x = tf.pad(inputs, pad, constant_values=inputs.dtype.min)
        return tf.nn.max_pool2d(x, self.pool_size, self.strides, "VALID")


@contextlib.contextmanager
def _keep_quantized_scope() -> Iterator[None]:
    """Close Larq's scope when a call fails or is interrupted.

    Left open, every save would write quantized weights in place of the latent ones.
    """
    scope = lq.context.should_quantize()
    try:
        yield
    finally:
        if lq.context.should_quantize() != scope:
            lq.context.quantized_scope(scope).__enter__()


def _channels(layer: tf.keras.layers.Layer, input_shape) -> int:
    channels = tf.TensorShape(input_shape)[-1]
    if channels is None:
        raise UserError(
            f"{type(layer).__qualname__} has weights per channel, so the last axis of "
            "its input must be known",
            got=f"input shape {tuple(input_shape)}",
            fix="give the input a fixed number of channels",
        )
    return channels
