"""Smaller files: float kernels stored in fewer bits and widened once, when loaded.

Each compact kernel is followed by a `DEQUANTIZE` operator. Its input is constant, so
the runtimes run it once and keep the result: no cost at inference, and (unlike TFLite's
dynamic-range quantization) the arithmetic stays float32.

TensorFlow Lite Micro widens by one scale for all channels only, and at every inference.
For it the kernels are whole numbers, and the channels' scales are multiplied behind.
"""

import numpy as np

from larq_nobn._tensorflow import schema
from larq_nobn.deploy.flatbuffer import Flatbuffer

FLOAT_WEIGHTS = ("float32", "float16", "int8")
# Operators whose second input is a kernel with the output channels on the first axis.
_KERNEL_OPERATORS = ("CONV_2D", "FULLY_CONNECTED")
# DEQUANTIZE knows scales per channel since its version 5, float16 since 3.
_DEQUANTIZE_VERSION = 5


def compact(
    content: bytes, float_weights: str = "float32", per_channel: bool = True
) -> bytes:
    r"""Store the kernels of a file's float operators in fewer bits.

    Kernels that are \\(\pm c\\) per output channel (binary ones on real activations, as
    in a ReActNet's downsampling shortcuts) become int8 in any case: that is exact.

    Args:
        content: A TFLite file.
        float_weights: What all other float kernels become: `"float32"` leaves them,
            `"float16"` rounds them, `"int8"` rounds them to 127 steps per channel.
        per_channel: Whether the runtime widens by a scale per channel. If not, these
            scales become a `MUL` behind the operator and its bias an `ADD`.

    Returns:
        The smaller file.
    """
    file = Flatbuffer(content)
    kernels = {
        op.inputs[1].index: op.inputs[1].values
        for op in file.operators()
        if op.kind in _KERNEL_OPERATORS
        and op.inputs[1].data is not None
        and op.inputs[1].dtype == "float32"
    }
    for index, kernel in kernels.items():
        stored, scale = _quantize(kernel, float_weights)
        if stored.dtype == np.float32:
            continue
        if scale is not None and not per_channel:
            if np.any(scale != scale[0]):
                _multiply_behind(file, index, scale)
                scale = np.ones_like(scale)
            scale = scale[:1]
        _store(file, index, stored, scale)
    return file.pack()


def _quantize(
    kernel: np.ndarray, float_weights: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the array to store and, for int8, its scale per output channel."""
    axes = tuple(range(1, kernel.ndim))
    largest = np.abs(kernel).max(axis=axes, keepdims=True)
    scale = np.where(largest > 0, largest, np.float32(1))
    if np.all(np.abs(kernel) == largest):
        return np.sign(kernel).astype(np.int8), scale.reshape(-1)
    if float_weights == "int8":
        scale = scale / np.float32(127)
        return np.rint(kernel / scale).astype(np.int8), scale.reshape(-1)
    return kernel.astype(float_weights), None


def _store(
    file: Flatbuffer, index: int, stored: np.ndarray, scale: np.ndarray | None
) -> None:
    """Replace a constant by a compact one and an operator that widens it."""
    graph, model = file.graph, file.model
    wide = graph.tensors[index]
    narrow = schema.TensorT()
    narrow.name, narrow.shape = wide.name + b"/compact", wide.shape
    narrow.type = schema.TensorType.FLOAT16
    if scale is not None:
        narrow.type = schema.TensorType.INT8
        narrow.quantization = schema.QuantizationParametersT()
        narrow.quantization.scale = scale.astype(np.float32)
        narrow.quantization.zeroPoint = np.zeros(scale.shape, np.int64)
        narrow.quantization.quantizedDimension = 0
    # Reuse the old buffer; buffer 0 is empty by convention.
    narrow.buffer, wide.buffer = wide.buffer, 0
    model.buffers[narrow.buffer].data = np.frombuffer(stored.tobytes(), np.uint8)
    graph.tensors.append(narrow)

    widen = _operator(
        model,
        "DEQUANTIZE",
        schema.DequantizeOptionsT(),
        [len(graph.tensors) - 1],
        index,
        _DEQUANTIZE_VERSION,
    )
    user = next(i for i, op in enumerate(graph.operators) if index in list(op.inputs))
    graph.operators.insert(user, widen)


def _multiply_behind(file: Flatbuffer, kernel: int, scale: np.ndarray) -> None:
    """Take a scale per output channel out of a kernel, behind all that use it.

    Args:
        file: The file to change.
        kernel: Number of the kernel's tensor.
        scale: What the results are multiplied by, before the bias.
    """
    graph, model = file.graph, file.model
    name = graph.tensors[kernel].name
    factor = _constant(file, name + b"/scale", scale)
    # The runtimes want a bias of every convolution.
    zeros = _constant(file, name + b"/no_bias", np.zeros_like(scale))
    users = [op for op in graph.operators if kernel in list(op.inputs)[1:2]]
    for user in users:
        (result,) = user.outputs
        bias = next((i for i in list(user.inputs)[2:] if i >= 0), None)
        if bias is not None and not file.tensor(bias).values.any():
            bias = None
        summed = _like(graph, result)
        scaled = result if bias is None else _like(graph, result)
        user.inputs, user.outputs = [*list(user.inputs)[:2], zeros], [summed]
        multiply = schema.MulOptionsT()
        new = [_operator(model, "MUL", multiply, [summed, factor], scaled)]
        if bias is not None:
            add = schema.AddOptionsT()
            new.append(_operator(model, "ADD", add, [scaled, bias], result))
        none = schema.ActivationFunctionType.NONE
        function = user.builtinOptions.fusedActivationFunction
        user.builtinOptions.fusedActivationFunction = none
        new[-1].builtinOptions.fusedActivationFunction = function
        behind = next(i for i, op in enumerate(graph.operators) if op is user) + 1
        graph.operators[behind:behind] = new


def _constant(file: Flatbuffer, name: bytes, values: np.ndarray) -> int:
    """Add a constant in float32, and return its tensor's number."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)
    file.model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name, tensor.shape = name, values.shape
    tensor.type = schema.TensorType.FLOAT32
    tensor.buffer = len(file.model.buffers) - 1
    file.graph.tensors.append(tensor)
    return len(file.graph.tensors) - 1


def _like(graph: schema.SubGraphT, index: int) -> int:
    """Add a tensor of another's name, shape and type."""
    tensor = schema.TensorT()
    model = graph.tensors[index]
    tensor.name, tensor.shape, tensor.type = model.name, model.shape, model.type
    tensor.shapeSignature = model.shapeSignature
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _operator(
    model: schema.ModelT,
    kind: str,
    options,
    inputs: list[int],
    output: int,
    version: int = 1,
) -> schema.OperatorT:
    op = schema.OperatorT()
    op.opcodeIndex = _code(model, getattr(schema.BuiltinOperator, kind), version)
    op.inputs, op.outputs = inputs, [output]
    kind_of_options = type(options).__name__.removesuffix("T")
    op.builtinOptionsType = getattr(schema.BuiltinOptions, kind_of_options)
    op.builtinOptions = options
    return op


def _code(model: schema.ModelT, builtin: int, version: int) -> int:
    for i, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin and code.version >= version:
            return i
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
