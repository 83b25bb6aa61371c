"""Smaller files: float kernels stored in fewer bits and widened once, when loaded.

Each compact kernel is followed by a `DEQUANTIZE` operator. Its input is constant, so
the runtimes run it once and keep the result: no cost at inference, and (unlike TFLite's
dynamic-range quantization) the arithmetic stays float32.
"""

import numpy as np

from larq_nobn._tensorflow import schema
from larq_nobn.deploy.flatbuffer import Flatbuffer

FLOAT_WEIGHTS = ("float32", "float16", "int8")
# Operators whose second input is a kernel with the output channels on the first axis.
_KERNEL_OPERATORS = ("CONV_2D", "FULLY_CONNECTED")
# DEQUANTIZE knows scales per channel since its version 5, float16 since 3.
_DEQUANTIZE_VERSION = 5


def compact(content: bytes, float_weights: str = "float32") -> bytes:
    r"""Store the kernels of a file's float operators in fewer bits.

    Kernels that are \\(\pm c\\) per output channel (binary ones on real activations, as
    in a ReActNet's downsampling shortcuts) become int8 in any case: that is exact.

    Args:
        content: A TFLite file.
        float_weights: What all other float kernels become: `"float32"` leaves them,
            `"float16"` rounds them, `"int8"` rounds them to 127 steps per channel.

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
        if stored.dtype != np.float32:
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

    widen = schema.OperatorT()
    widen.opcodeIndex = _dequantize_code(model)
    widen.inputs, widen.outputs = [len(graph.tensors) - 1], [index]
    widen.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
    widen.builtinOptions = schema.DequantizeOptionsT()
    user = next(i for i, op in enumerate(graph.operators) if index in list(op.inputs))
    graph.operators.insert(user, widen)


def _dequantize_code(model: schema.ModelT) -> int:
    builtin = schema.BuiltinOperator.DEQUANTIZE
    for i, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin and code.version >= _DEQUANTIZE_VERSION:
            return i
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = _DEQUANTIZE_VERSION
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
