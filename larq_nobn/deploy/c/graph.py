"""A file as steps: what is computed, from which values into which, by which kernel."""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from larq_nobn._errors import UserError
from larq_nobn.deploy.flatbuffer import DAMAGE, Flatbuffer, Operator, Tensor

# Sizes are `int32_t` in C; no microcontroller comes near.
_MOST_ELEMENTS = 2**28


@dataclass(eq=False)
class Value:
    """A map that some step computes, or the input.

    Attributes:
        shape: Its shape, without the batch: `(height, width, channels)` or others.
        is_bits: Whether it is signs, eight channels a byte, instead of floats.
        name: Its name in the file.
    """

    shape: tuple[int, ...]
    is_bits: bool = False
    name: str = ""

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the arena."""
        if self.is_bits:
            return self.size // self.shape[-1] * ((self.shape[-1] + 7) // 8)
        return 4 * self.size


@dataclass(frozen=True)
class Place:
    """A place inside a value's floats."""

    value: Value
    offset: int


@dataclass(eq=False)
class Struct:
    """A constant struct of C: its type and its fields in order."""

    type: str
    fields: dict[str, object]


@dataclass(frozen=True)
class Scratch:
    """Memory that a step needs while it runs, as `uint32_t`."""

    nbytes: int


@dataclass(eq=False)
class Step:
    """A call of a kernel.

    Attributes:
        kernel: The section of `kernels.c`.
        arguments: In the order of C: values, constant arrays, structs, numbers,
            `Scratch`, `None` for a null pointer.
        inputs: The values that it reads.
        output: The value that it writes.
        layer: What it belongs to in the file, for people.
        in_place: The input whose memory the output may take, or must: a `bconv` that
            adds does so to what lies there.
        flags: Of `bconv`: what it does behind the sum.
        binary_macs: Multiply-accumulates of signs.
        float_macs: Multiply-accumulates of floats.
    """

    kernel: str
    arguments: list
    inputs: list[Value]
    output: Value
    layer: str = ""
    in_place: Value | None = None
    flags: int = 0
    binary_macs: int = 0
    float_macs: int = 0


@dataclass
class Graph:
    """A network as steps in order.

    Attributes:
        input: The image.
        output: What the last step computes.
        steps: All steps.
    """

    input: Value
    output: Value
    steps: list[Step] = field(default_factory=list)


CLAMP, ADD, PRELU, BITS = 1, 2, 4, 8
_NO_LOW, _NO_HIGH = -np.finfo(np.float32).max, np.finfo(np.float32).max
_ACTIVATIONS = {
    0: (_NO_LOW, _NO_HIGH),
    1: (np.float32(0), _NO_HIGH),
    2: (np.float32(-1), np.float32(1)),
    3: (np.float32(0), np.float32(6)),
}
# What each operator becomes; the table of the guide is made from it.
OPERATORS: dict[str, str] = {}
_READERS = {}


def _reads(*kinds: str, how: str):
    def register(function):
        for kind in kinds:
            OPERATORS[kind] = how
            _READERS[kind] = function
        return function

    return register


class _No(Exception):
    """Why an operator cannot be taken."""


def read_graph(content: bytes) -> Graph:
    """Take a file apart.

    Args:
        content: A `.tflite` file.

    Returns:
        Its steps, fused as far as memory and speed gain by it.

    Raises:
        UserError: If it is none, is damaged, or has what C export cannot do; all such
            operators are named.
    """
    file = Flatbuffer(content)
    try:
        return fused(_Reader(file).graph())
    except UserError:
        raise
    except (*DAMAGE, OverflowError, ArithmeticError) as error:
        raise UserError(
            "The file must be a whole TFLite flatbuffer",
            got=f"{len(content)} bytes that contradict themselves "
            f"({type(error).__name__})",
            fix="write or download it again",
        ) from error


class _Reader:
    def __init__(self, file: Flatbuffer):
        self.file = file
        self.values: dict[int, Value] = {}
        self.constants: dict[int, np.ndarray] = {}
        self.steps: list[Step] = []

    def graph(self) -> Graph:
        self._check_subgraphs()
        source, result = self.file.inputs[0], self.file.outputs[0]
        self._check_sizes()
        self.values[source.index] = Value(source.shape[1:], name=source.name)
        missing: Counter[str] = Counter()
        for op in self.file.operators():
            try:
                if op.kind not in _READERS:
                    raise _No("")
                _READERS[op.kind](self, op)
            except _No as why:
                reason = f" ({why})" if str(why) else ""
                missing[op.kind + reason] += 1
                # So that the rest can be looked at, too.
                for out in op.outputs:
                    self.values.setdefault(out.index, Value(out.shape[1:]))
        if missing:
            listed = ", ".join(f"{n} {kind}" for kind, n in sorted(missing.items()))
            raise UserError(
                "Every operator must be one that C export knows (the guide's page "
                "microcontroller lists them)",
                got=listed,
                fix="build the network without it, or open an issue that names it",
            )
        if result.index not in self.values or not self.steps:
            raise ValueError("no operator computes the output")
        output = self.values[result.index]
        if output.is_bits:
            raise _unsupported("floats as its output", "signs", "end it in a dense one")
        return Graph(self.values[source.index], output, self.steps)

    def _check_subgraphs(self) -> None:
        graphs = len(self.file.model.subgraphs)
        if graphs != 1:
            raise _unsupported("one subgraph", graphs, "export without control flow")
        for what, tensors in (
            ("input", self.file.inputs),
            ("output", self.file.outputs),
        ):
            if len(tensors) != 1:
                raise _unsupported(f"one {what}", len(tensors), "export a part of it")
            if tensors[0].dtype != "float32":
                raise _unsupported(
                    f"float32 as its {what}",
                    tensors[0].dtype,
                    "convert it without quantized inputs and outputs",
                )

    def _check_sizes(self) -> None:
        for i, raw in enumerate(self.file.graph.tensors):
            tensor = self.file.tensor(i)
            signature = raw.shapeSignature
            if signature is not None and any(n < 0 for n in signature):
                raise _unsupported(
                    "fixed shapes",
                    f"{tuple(int(n) for n in signature)} of {tensor.name!r}",
                    "convert it for one image of a fixed size",
                )
            if any(n < 0 for n in tensor.shape) or any(
                n > _MOST_ELEMENTS for n in (*tensor.shape, _product(tensor.shape))
            ):
                raise ValueError(f"shape {tensor.shape}")
        batch = self.file.inputs[0].shape[:1]
        if batch != (1,) or 0 in self.file.inputs[0].shape:
            raise _unsupported("one image as input", batch, "convert it for batch 1")

    # What readers of operators ask for.

    def value(self, tensor: Tensor, bits: bool = False) -> Value:
        """The value of a tensor that an operator reads."""
        if tensor.index not in self.values:
            raise _No("a constant where a map belongs")
        value = self.values[tensor.index]
        if value.is_bits != bits:
            raise _No("signs as a map of numbers" if not bits else "integers")
        return value

    def constant(self, tensor: Tensor) -> np.ndarray:
        """A constant, finite, in float32 or integers."""
        if tensor.index not in self.constants:
            if tensor.data is None:
                raise _No("a kernel that is computed")
            self.constants[tensor.index] = tensor.values
        return self.constants[tensor.index]

    def floats(self, tensor: Tensor | None, size: int) -> np.ndarray:
        """A vector of float constants, zeros where it is left out."""
        if tensor is None:
            return np.zeros(size, np.float32)
        found = self.constant(tensor)
        if found.dtype != np.float32:
            raise _No(f"{tensor.dtype} where floats belong")
        if found.size != size or not np.isfinite(found).all():
            raise ValueError("constants that do not fit or are not finite")
        return np.ascontiguousarray(found.reshape(-1), dtype=np.float32)

    def add(self, kernel: str, op: Operator, inputs, arguments, **kwargs) -> None:
        """Append a step whose output is the operator's."""
        out = op.outputs[0]
        bits_of = kwargs.pop("bits_of", None)
        if bits_of is None and out.dtype != "float32":
            raise _No(f"{out.dtype} output")
        shape = out.shape[1:]
        if bits_of is not None:
            shape = (*shape[:-1], bits_of)
        if out.shape[:1] != (1,) or 0 in shape:
            raise _No(f"output of shape {out.shape}")
        output = Value(shape, bits_of is not None, out.name)
        self.values[out.index] = output
        arguments = [output if a is Ellipsis else a for a in arguments]
        layer = (out.scopes or [out.name.split(";")[0] or op.kind])[0]
        self.steps.append(Step(kernel, arguments, inputs, output, layer, **kwargs))

    def shape(self, op: Operator, rank: int = 3) -> tuple[int, ...]:
        """Shape of the output without the batch."""
        shape = op.outputs[0].shape[1:]
        if len(shape) != rank:
            raise _No(f"output of shape {op.outputs[0].shape}")
        return shape


def _product(shape) -> int:
    product = 1
    for n in shape:
        product *= int(n)
    return product


def _unsupported(wanted: str, got: object, fix: str) -> UserError:
    return UserError(f"The file must have {wanted}", got=got, fix=fix)


def _limits(code: int) -> tuple[np.float32, np.float32]:
    if code not in _ACTIVATIONS:
        raise _No(f"activation {code}")
    return _ACTIVATIONS[code]


def _window(source, result, size, steps, gaps, is_same) -> dict[str, object]:
    """The fields of `struct window`, and a check that the output's size is theirs."""
    fields: dict[str, object] = {}
    for i, axis in enumerate("hw"):
        reach = (size[i] - 1) * gaps[i] + 1
        length = source[i]
        if min(steps[i], gaps[i], size[i]) < 1 or reach > _MOST_ELEMENTS:
            raise ValueError("window")
        out = (
            -(-length // steps[i]) if is_same else -(-(length - reach + 1) // steps[i])
        )
        if out < 1 or out != result[i]:
            raise ValueError("the window gives another size")
        pad = max((out - 1) * steps[i] + reach - length, 0) // 2 if is_same else 0
        fields |= {f"in_{axis}": length, f"out_{axis}": out, axis: size[i]}
        fields |= {f"step_{axis}": steps[i], f"gap_{axis}": gaps[i]}
        fields |= {f"pad_{axis}": pad}
    order = ("in_h", "in_w", "out_h", "out_w", "h", "w")
    order += ("step_h", "step_w", "gap_h", "gap_w", "pad_h", "pad_w")
    return {name: int(fields[name]) for name in order}


def _is_same(padding: int, same: int) -> bool:
    if padding not in (0, 1):
        raise ValueError("padding")
    return padding == same


# ----------------------------------------------------------------- binary operators


@_reads("LceQuantize", how="signs as bits, eight channels a byte")
def _quantize(reader: _Reader, op: Operator) -> None:
    x = reader.value(op.inputs[0])
    reader.add(
        "quantize",
        op,
        [x],
        [x, None, x.size // x.shape[-1], x.shape[-1], ...],
        bits_of=x.shape[-1],
    )
    if reader.steps[-1].output.shape[:-1] != x.shape[:-1]:
        raise ValueError("shapes of signs")


@_reads("LceDequantize", how="bits as +1 and -1")
def _dequantize(reader: _Reader, op: Operator) -> None:
    x = reader.value(op.inputs[0], bits=True)
    reader.add("dequantize", op, [x], [x, x.size // x.shape[-1], x.shape[-1], ...])
    if reader.steps[-1].output.shape != x.shape:
        raise ValueError("shapes of signs")


@_reads("LceBMaxPool2d", how="bitwise and")
def _bmaxpool(reader: _Reader, op: Operator) -> None:
    x, options = reader.value(op.inputs[0], bits=True), op.options
    # LCE's own numbers of paddings: valid is 1 here, too.
    window = _window(
        x.shape,
        reader.shape(op),
        (options["filter_height"], options["filter_width"]),
        (options["stride_height"], options["stride_width"]),
        (1, 1),
        _is_same(options["padding"], same=0),
    )
    arguments = [Struct("window", window), x, x.shape[-1], ...]
    reader.add("bmaxpool", op, [x], arguments, bits_of=x.shape[-1])


@_reads(
    "LceBconv2d",
    how="bits, a table of counts for four channels and four pixels; LCE's output "
    "transform; sum with a shortcut and PReLU in the same pass; floats or bits out",
)
def _bconv(reader: _Reader, op: Operator) -> None:
    x, options = reader.value(op.inputs[0], bits=True), op.options
    kernel = _signs(op.inputs[1], x.shape[-1], options["channels_in"])
    filters, height, width, channels = kernel.shape
    out = op.outputs[0]
    has_bits = out.dtype == "int32"
    shape = reader.shape(op)
    is_same = _is_same(options["padding"], same=0)
    window = _window(
        x.shape,
        shape,
        (height, width),
        (options["stride_height"], options["stride_width"]),
        (options["dilation_height_factor"], options["dilation_width_factor"]),
        is_same,
    )
    is_padded = is_same and (window["h"] > 1 or window["w"] > 1)
    ones = options["pad_values"] == 1
    low, high = _limits(options["fused_activation_function"])
    if height * width * channels > 65535:
        raise _No("more than 65535 factors in a sum")
    if height > 16:
        raise _No("a window of more than 16 rows")
    if (shape[-1] + 31) // 32 != 0 and shape[-1] != (
        (filters + 31) // 32 if has_bits else filters
    ):
        raise ValueError("filters")
    struct = {
        "window": window,
        "channels": channels,
        "filters": filters,
        "padding": 0x01010101 if ones else 0,
        "kernel": _nibbles(kernel),
        "multiplier": None,
        "bias": None,
        "slope": None,
        "threshold": None,
        "low": low,
        "high": high,
    }
    flags = 0
    if has_bits:
        if is_padded and not ones:
            raise _No("zero padding with bits as output")
        threshold = reader.constant(op.inputs[4])
        if threshold.dtype != np.int32 or threshold.size != filters:
            raise ValueError("thresholds")
        struct["threshold"] = threshold.reshape(-1)
        flags = BITS
    else:
        struct["multiplier"] = reader.floats(op.inputs[2], filters)
        struct["bias"] = reader.floats(op.inputs[3], filters)
        flags = CLAMP if options["fused_activation_function"] else 0
    span = (height - 1) * window["gap_h"] + 1
    tables = Scratch(span * width * ((channels + 7) // 8) * 128)
    outputs = [None, ...] if has_bits else [..., None]
    reader.add(
        "bconv",
        op,
        [x],
        [Struct("bconv", struct), x, *outputs, tables],
        bits_of=filters if has_bits else None,
        flags=flags,
        binary_macs=_product(shape[:2]) * filters * height * width * channels,
    )


def _signs(tensor: Tensor, channels: int, said: int) -> np.ndarray:
    """A binary kernel as bits, `(filters, height, width, channels)`."""
    if tensor.data is None or tensor.dtype != "int32" or len(tensor.shape) != 4:
        raise _No("a kernel that is computed")
    words = tensor.values
    if channels != said or words.shape[-1] != (channels + 31) // 32 or not words.size:
        raise _No("groups")
    data = np.ascontiguousarray(words.astype("<i4")).view(np.uint8)
    bits = np.unpackbits(data, axis=-1, bitorder="little")
    return bits[..., :channels]


def _nibbles(kernel: np.ndarray) -> np.ndarray:
    """Bits for `bconv`: a word holds four channels of eight filters."""
    filters, height, width, channels = kernel.shape
    full = np.zeros((-(-filters // 8) * 8, height, width, -(-channels // 8) * 8))
    full[:filters, ..., :channels] = kernel
    full = full.reshape(-1, 8, height, width, full.shape[-1] // 4, 4)
    words = np.einsum("bfhwgi,fi->bhwg", full, 2.0 ** np.arange(32).reshape(8, 4))
    return words.astype(np.uint32)


# ------------------------------------------------------------------ float operators


def _conv_struct(reader: _Reader, op: Operator, window, channels, filters) -> Struct:
    """`struct conv`, its kernel in float32 or, with a scale a filter, in int8."""
    kernel = reader.constant(op.inputs[1])
    low, high = _limits(op.options.fusedActivationFunction)
    fields: dict[str, object] = {"window": window, "channels": channels}
    fields |= {"filters": filters, "kernel": None, "int8": None, "scale": None}
    if isinstance(kernel, _Scaled):
        if kernel.scale.size != filters:
            raise _No("int8 kernel without a scale for each filter")
        fields |= {"int8": kernel.values, "scale": kernel.scale}
    else:
        fields["kernel"] = reader.floats(op.inputs[1], kernel.size)
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    fields |= {"bias": reader.floats(bias, filters), "low": low, "high": high}
    return Struct("conv", fields)


@dataclass(frozen=True)
class _Scaled:
    """An int8 kernel and the scales of its filters."""

    values: np.ndarray
    scale: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def size(self) -> int:
        return self.values.size


def _kernel_shape(reader: _Reader, op: Operator, rank: int) -> tuple[int, ...]:
    shape = reader.constant(op.inputs[1]).shape
    if len(shape) != rank or 0 in shape:
        raise ValueError("kernel")
    return shape


def _kernel_window(reader: _Reader, op: Operator, x, size: tuple[int, int]):
    """The window of a float convolution."""
    options = op.options
    return _window(
        x.shape,
        reader.shape(op),
        size,
        (options.strideH, options.strideW),
        (options.dilationHFactor, options.dilationWFactor),
        _is_same(options.padding, same=0),
    )


@_reads("CONV_2D", how="float32; kernels in float32 or int8")
def _conv(reader: _Reader, op: Operator) -> None:
    x = reader.value(op.inputs[0])
    filters, height, width, channels = _kernel_shape(reader, op, 4)
    if channels != x.shape[-1]:
        raise _No("groups")
    window = _kernel_window(reader, op, x, (height, width))
    if reader.shape(op)[-1] != filters:
        raise ValueError("filters")
    struct = _conv_struct(reader, op, window, channels, filters)
    kernel = "conv" if struct.fields["int8"] is None else "conv_int8"
    macs = _product(op.outputs[0].shape) * height * width * channels
    reader.add(kernel, op, [x], [struct, x, ...], float_macs=macs)


@_reads("DEPTHWISE_CONV_2D", how="float32")
def _depthwise(reader: _Reader, op: Operator) -> None:
    x = reader.value(op.inputs[0])
    _, height, width, filters = _kernel_shape(reader, op, 4)
    window = _kernel_window(reader, op, x, (height, width))
    if reader.shape(op)[-1] != filters or filters % x.shape[-1]:
        raise ValueError("filters")
    struct = _conv_struct(reader, op, window, x.shape[-1], filters)
    if struct.fields["kernel"] is None:
        raise _No("int8 kernel")
    macs = _product(op.outputs[0].shape) * height * width
    reader.add("depthwise", op, [x], [struct, x, ...], float_macs=macs)


@_reads("FULLY_CONNECTED", how="float32; kernels in float32 or int8")
def _dense(reader: _Reader, op: Operator) -> None:
    x, options = reader.value(op.inputs[0]), op.options
    filters, channels = _kernel_shape(reader, op, 2)
    if options.weightsFormat:
        raise _No("shuffled weights")
    rows = x.size // channels
    if rows * channels != x.size or _product(op.outputs[0].shape) != rows * filters:
        raise ValueError("sizes")
    struct = _conv_struct(
        reader,
        op,
        _window((1,) * 2, (1,) * 2, (1,) * 2, (1,) * 2, (1,) * 2, False),
        channels,
        filters,
    )
    kernel = "dense" if struct.fields["int8"] is None else "dense_int8"
    macs = rows * filters * channels
    reader.add(kernel, op, [x], [struct, x, rows, ...], float_macs=macs)


@_reads("AVERAGE_POOL_2D", "MAX_POOL_2D", how="float32")
def _pool(reader: _Reader, op: Operator) -> None:
    x, options = reader.value(op.inputs[0]), op.options
    window = _window(
        x.shape,
        reader.shape(op),
        (options.filterHeight, options.filterWidth),
        (options.strideH, options.strideW),
        (1, 1),
        _is_same(options.padding, same=0),
    )
    if reader.shape(op)[-1] != x.shape[-1]:
        raise ValueError("channels")
    limits = _limits(options.fusedActivationFunction)
    largest = int(op.kind == "MAX_POOL_2D")
    arguments = [Struct("window", window), x, x.shape[-1], *limits, largest, ...]
    reader.add("pool", op, [x], arguments)


@_reads("MEAN", how="over height and width")
def _mean(reader: _Reader, op: Operator) -> None:
    x = reader.value(op.inputs[0])
    axes = {int(a) % 4 for a in reader.constant(op.inputs[1]).reshape(-1)}
    if len(x.shape) != 3 or axes != {1, 2}:
        raise _No("over other axes")
    if _product(op.outputs[0].shape) != x.shape[-1]:
        raise ValueError("channels")
    arguments = [x, x.size // x.shape[-1], x.shape[-1], ...]
    reader.add("mean", op, [x], arguments)


_BINARY = {"ADD": "add", "SUB": "subtract", "MUL": "multiply", "DIV": "divide"}
_BINARY |= {"MAXIMUM": "maximum", "MINIMUM": "minimum", "PRELU": "prelu"}


@_reads(*_BINARY, how="float32, in place; a constant or map, repeated over the other")
def _elementwise(reader: _Reader, op: Operator) -> None:
    kernel, (a, b) = _BINARY[op.kind], op.inputs[:2]
    code = getattr(op.options, "fusedActivationFunction", 0)
    limits = _limits(code)
    shape = op.outputs[0].shape[1:]
    # The larger one first; one that is not computed cannot be written over.
    is_turned = a.index not in reader.values or (
        b.index in reader.values and _product(a.shape) < _product(b.shape)
    )
    if is_turned:
        kernel = {"divide": "", "prelu": "", "subtract": "subtract_from"}.get(
            kernel, kernel
        )
        if not kernel:
            raise _No("a constant, or the smaller map, first")
        a, b = b, a
    x = reader.value(a)
    if x.shape != shape:
        raise _No(f"shapes {a.shape} and {b.shape}")
    trimmed = list(b.shape)
    while trimmed and trimmed[0] == 1:
        trimmed.pop(0)
    if (
        len(trimmed) > len(shape)
        or tuple(trimmed) != shape[len(shape) - len(trimmed) :]
    ):
        raise _No(f"shapes {a.shape} and {b.shape}")
    size = _product(trimmed)
    is_map = b.index in reader.values
    y = reader.value(b) if is_map else reader.floats(b, size)
    inputs = [x, y] if is_map else [x]
    arguments = [x, y, x.size, size, *limits, ...]
    reader.add(kernel, op, inputs, arguments, in_place=x)


_UNARY = {"RELU": "relu", "RELU6": "relu_6", "RELU_N1_TO_1": "relu_n1_to_1"}
_UNARY |= {"ABS": "absolute", "NEG": "negative", "LOGISTIC": "logistic"}
_UNARY |= {"HARD_SWISH": "hard_swish"}


@_reads(*_UNARY, how="float32, in place")
def _unary(reader: _Reader, op: Operator) -> None:
    x = reader.value(op.inputs[0])
    reader.add(_UNARY[op.kind], op, [x], [x, x.size, ...], in_place=x)
    _check_kept(reader, x)


@_reads("LEAKY_RELU", how="float32, in place")
def _leaky_relu(reader: _Reader, op: Operator) -> None:
    x, slope = reader.value(op.inputs[0]), np.float32(op.options.alpha)
    reader.add("leaky_relu", op, [x], [x, slope, x.size, ...], in_place=x)
    _check_kept(reader, x)


@_reads("SOFTMAX", how="float32, its own exponential function")
def _softmax(reader: _Reader, op: Operator) -> None:
    x, beta = reader.value(op.inputs[0]), np.float32(op.options.beta)
    classes = x.shape[-1]
    arguments = [x, beta, x.size // classes, classes, ...]
    reader.add("softmax", op, [x], arguments, in_place=x)
    _check_kept(reader, x)


def _check_kept(reader: _Reader, x: Value) -> None:
    if reader.steps[-1].output.shape != x.shape:
        raise ValueError("shapes")


# --------------------------------------------------------------------------- moving


@_reads("RESHAPE", "SQUEEZE", "EXPAND_DIMS", how="nothing: the same memory")
def _reshape(reader: _Reader, op: Operator) -> None:
    x = reader.value(op.inputs[0])
    reader.add("alias", op, [x], [], in_place=x)
    if reader.steps[-1].output.size != x.size:
        raise ValueError("sizes")


@_reads("CONCATENATION", how="a copy")
def _concatenation(reader: _Reader, op: Operator) -> None:
    parts = [reader.value(t) for t in op.inputs]
    shape = op.outputs[0].shape
    axis = op.options.axis % len(shape)
    if axis == 0 or op.options.fusedActivationFunction:
        raise _No("over images, or with an activation")
    rows, place = _product(shape[1:axis]), 0
    row = _product(shape[axis:])
    reader.add("copy", op, parts, [])
    step = reader.steps.pop()
    for part in parts:
        size = part.size // rows
        if size * rows != part.size:
            raise ValueError("parts")
        arguments = [part, rows, size, size, row, Place(step.output, place)]
        reader.steps.append(Step("copy", arguments, [part], step.output, step.layer))
        place += size
    if place != row:
        raise ValueError("parts")


@_reads("SPLIT", how="a copy for each part")
def _split(reader: _Reader, op: Operator) -> None:
    axes, x = reader.constant(op.inputs[0]).reshape(-1), reader.value(op.inputs[1])
    axis = int(axes[0]) % (len(x.shape) + 1)
    if axis == 0:
        raise _No("over images")
    rows, place = _product(x.shape[: axis - 1]), 0
    for out in op.outputs:
        size = _product(out.shape[axis:])
        part = replace(op, outputs=(out,))
        arguments = [Place(x, place), rows, size, x.size // rows, size, ...]
        reader.add("copy", part, [x], arguments)
        place += size
        if reader.steps[-1].output.size != rows * size:
            raise ValueError("parts")
    if place * rows != x.size:
        raise ValueError("parts")


@_reads("REVERSE_V2", how="a copy; one axis")
def _reverse(reader: _Reader, op: Operator) -> None:
    x = reader.value(op.inputs[0])
    axes = reader.constant(op.inputs[1]).reshape(-1)
    if len(axes) != 1:
        raise _No("over several axes")
    axis = int(axes[0]) % (len(x.shape) + 1)
    if axis == 0:
        raise _No("over images")
    times, rows = _product(x.shape[: axis - 1]), x.shape[axis - 1]
    reader.add("reverse", op, [x], [x, times, rows, _product(x.shape[axis:]), ...])
    _check_kept(reader, x)


@_reads("PAD", "PADV2", how="a copy")
def _pad(reader: _Reader, op: Operator) -> None:
    x = reader.value(op.inputs[0])
    around = reader.constant(op.inputs[1])
    if around.shape != (4, 2) or len(x.shape) != 3 or around[0].any():
        raise _No("other than height, width and channels")
    value = np.float32(0)
    if op.kind == "PADV2":
        value = reader.floats(op.inputs[2], 1)[0]
    before, after = around[1:, 0], around[1:, 1]
    if min(before.min(), after.min()) < 0:
        raise ValueError("padding")
    padded = tuple(int(n) for n in before + np.array(x.shape) + after)
    if padded != reader.shape(op):
        raise ValueError("shapes")
    sizes = (np.array(n, np.int32) for n in (x.shape, before, padded))
    reader.add("pad", op, [x], [x, *sizes, value, ...])


@_reads("DEQUANTIZE", how="of constants: int8 kernels are kept, float16 is widened")
def _widen(reader: _Reader, op: Operator) -> None:
    tensor, index = op.inputs[0], op.outputs[0].index
    if tensor.data is None:
        raise _No("quantized maps")
    if tensor.dtype == "float16":
        reader.constants[index] = tensor.values.astype(np.float32)
        return
    details = reader.file.graph.tensors[tensor.index].quantization
    if tensor.dtype != "int8" or details is None or details.scale is None:
        raise _No(f"of {tensor.dtype}")
    scale = np.asarray(details.scale, np.float32)
    if np.any(np.asarray(details.zeroPoint)) or not np.isfinite(scale).all():
        raise _No("a zero point")
    if scale.size == 1:
        scale = np.repeat(scale, tensor.shape[0])
    elif details.quantizedDimension != 0:
        raise _No("scales of another axis")
    reader.constants[index] = _Scaled(tensor.values, scale)


# --------------------------------------------------------------------------- fusing


def fused(graph: Graph) -> Graph:
    """Put what needs no memory of its own into its neighbour.

    A binary convolution adds to the shortcut where that lies, and applies the PReLU
    behind; a shift in front of signs is added while they are taken.

    Args:
        graph: The steps, one an operator.

    Returns:
        Fewer steps.
    """
    steps = list(graph.steps)
    while True:
        uses = Counter(id(x) for step in steps for x in step.inputs)
        uses[id(graph.output)] += 1
        makers = {id(step.output): step for step in steps}
        if not any(_fuse(step, steps, uses, makers) for step in steps):
            return replace(graph, steps=steps)


def _fuse(step: Step, steps: list[Step], uses: Counter, makers: dict) -> bool:
    """Fuse a step with one in front of it; whether there was one."""

    def before(value, kernel):
        maker = makers.get(id(value))
        wanted = maker is not None and maker.kernel == kernel
        return maker if wanted and uses[id(value)] == 1 else None

    x = step.inputs[0]
    if step.kernel == "quantize" and step.arguments[1] is None:
        shift = before(x, "add")
        if shift is None or len(shift.inputs) != 1:
            return False
        bias, (low, high) = shift.arguments[1], shift.arguments[4:6]
        if bias.size not in (1, x.shape[-1]) or (low, high) != (_NO_LOW, _NO_HIGH):
            return False
        source = shift.inputs[0]
        step.arguments[:2] = [source, np.resize(bias, x.shape[-1])]
        step.inputs[:] = [source]
        steps.remove(shift)
        return True
    if step.kernel == "add" and len(step.inputs) == 2:
        low, high = step.arguments[4:6]
        if step.inputs[0].shape != step.inputs[1].shape:
            return False
        for own, other in (step.inputs, step.inputs[::-1]):
            conv = before(own, "bconv")
            plain = conv is not None and not conv.flags & (ADD | PRELU | BITS)
            if not plain or own is other or (low, high) != (_NO_LOW, _NO_HIGH):
                continue
            _absorb(conv, step, steps, ADD)
            conv.inputs.append(other)
            conv.in_place = other
            return True
        return False
    if step.kernel == "prelu" and len(step.inputs) == 1:
        conv = before(x, "bconv")
        slope = step.arguments[1]
        if conv is None or conv.flags & (PRELU | BITS) or slope.size != x.shape[-1]:
            return False
        conv.arguments[0].fields["slope"] = slope
        _absorb(conv, step, steps, PRELU)
        return True
    return False


def _absorb(conv: Step, step: Step, steps: list[Step], flag: int) -> None:
    """Let a convolution do what a later step did, in that one's place."""
    conv.arguments[2] = conv.output = step.output
    conv.flags |= flag
    steps.remove(conv)
    steps[steps.index(step)] = conv
