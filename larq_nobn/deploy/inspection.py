"""What is in an exported file: operators, multiply-accumulates, bytes."""

from collections import Counter
from dataclasses import dataclass

import larq as lq
import numpy as np
import tensorflow as tf

from larq_nobn import layers
from larq_nobn._keras2 import named_calls_of
from larq_nobn._tables import format_table
from larq_nobn.deploy.coverage import float_layers
from larq_nobn.deploy.flatbuffer import Flatbuffer, Operator, Tensor
from larq_nobn.networks import place_of

_keras = tf.keras.layers
# The operators of each layer class before folding; kernels cost their magnitude and
# gain, one multiplication per output.
_UNFOLDED: dict[type, tuple[str, ...]] = {
    layers.Scale: ("MUL",),
    layers.LearnableBias: ("ADD",),
    layers.ScaledAdd: ("MUL", "ADD"),
    layers.RPReLU: ("ADD", "PRELU", "ADD"),
    layers.SymmetricMaxPooling2D: ("MAX_POOL_2D",),
    _keras.BatchNormalization: ("MUL", "ADD"),
    _keras.AveragePooling2D: ("AVERAGE_POOL_2D",),
    _keras.MaxPooling2D: ("MAX_POOL_2D",),
    _keras.Concatenate: ("CONCATENATION",),
    _keras.GlobalAveragePooling2D: ("MEAN",),
    _keras.Dense: ("FULLY_CONNECTED",),
    _keras.PReLU: ("PRELU",),
    _keras.Add: ("ADD",),
}
# Operators with one float multiplication per output element. That of a binary
# convolution is its multiplier, that of an average its divisor.
_MULTIPLYING = ("LceBconv2d", "PRELU", "LEAKY_RELU", "MUL", "DIV", "AVERAGE_POOL_2D")
_MULTIPLYING += ("MEAN",)


@dataclass(frozen=True)
class Row:
    """An operator of a file.

    Attributes:
        layer: Name of the layer that it belongs to.
        operator: Its kind, such as `"LceBconv2d"`.
        shape: Shape of its output.
        binary_macs: Multiply-accumulates of signs.
        float_macs: Multiply-accumulates of floats, in convolutions and dense layers.
        multiplications: Other float multiplications.
        nbytes: Bytes of its constants in the file.
        float_nbytes: Bytes of its constants if all were float32.
        stored: How its largest constant is stored, such as `"1 bit"` or `"int8"`.
    """

    layer: str
    operator: str
    shape: tuple[int, ...]
    binary_macs: int
    float_macs: int
    multiplications: int
    nbytes: int
    float_nbytes: int
    stored: str


@dataclass(frozen=True)
class Report:
    """What is in a file; `str()` of it is a table.

    Attributes:
        rows: Its operators, in order.
        nbytes: Size of the file.
        float_layers: Names of the layers with quantized inputs that are float in it,
            and why, if the model is known.
    """

    rows: tuple[Row, ...]
    nbytes: int
    float_layers: tuple[tuple[str, str], ...] = ()

    def total(self, field: str) -> int:
        """Sum a field of `Row`."""
        return sum(getattr(row, field) for row in self.rows)

    @property
    def binary_convolutions(self) -> int:
        """How many binary convolutions there are."""
        return sum(row.operator == "LceBconv2d" for row in self.rows)

    @property
    def float_nbytes(self) -> int:
        """Size of the same file if all constants were float32."""
        return self.nbytes - self.total("nbytes") + self.total("float_nbytes")

    def blocks(self) -> dict[str, list[str]]:
        """The operators of each residual block, sorted."""
        return _by_block((row.layer, [row.operator]) for row in self.rows)

    def __str__(self) -> str:
        """Return the table and the totals."""
        header = ("layer", "operator", "output", "1-bit MACs", "float MACs")
        header += ("float mults", "bytes", "stored")
        lines = [
            (
                row.layer,
                row.operator,
                "x".join(map(str, row.shape[1:])),
                _count(row.binary_macs),
                _count(row.float_macs),
                _count(row.multiplications),
                _count(row.nbytes),
                row.stored,
            )
            for row in self.rows
        ]
        return "\n".join([format_table(header, lines), "", self.summary()])

    def summary(self) -> str:
        """Return the totals as text."""
        return (
            f"{self.binary_convolutions} binary convolutions; "
            f"{self.total('binary_macs') / 1e6:.1f} M 1-bit MACs, "
            f"{self.total('float_macs') / 1e6:.1f} M float MACs, "
            f"{self.total('multiplications') / 1e6:.2f} M other float "
            f"multiplications per image\n"
            f"file {self.nbytes / 1e6:.3f} MB; all in float32 "
            f"{self.float_nbytes / 1e6:.3f} MB ({self.float_nbytes / self.nbytes:.1f} "
            "times)"
            + "".join(f"\nfloat: {name}, {why}" for name, why in self.float_layers)
        )


def report(content: bytes, model: tf.keras.Model | None = None) -> Report:
    """Take stock of a TFLite file.

    Args:
        content: The file, from `convert` or another converter.
        model: The model that it is of, to say which layers are float although their
            inputs are quantized.

    Returns:
        Operators, multiply-accumulates and bytes.

    Raises:
        UserError: If it is no TFLite file.

    Example:
        >>> print(report(convert(model)))
    """
    file = Flatbuffer(content)
    operators = file.operators()
    widened = {
        op.outputs[0].index: op.inputs[0]
        for op in operators
        if op.kind == "DEQUANTIZE" and op.inputs[0].data is not None
    }
    seen: set[int] = set()
    rows = [
        _row(op, widened, seen)
        for op in operators
        if op.outputs[0].index not in widened
    ]
    kept = () if model is None else tuple(float_layers(model))
    return Report(tuple(rows), len(content), kept)


def _row(op: Operator, widened: dict[int, Tensor], seen: set[int]) -> Row:
    out = op.outputs[0]
    elements = int(np.prod(out.shape))
    constants = [widened.get(x.index, x) for x in op.inputs if x is not None]
    constants = [x for x in constants if x.data is not None and x.index not in seen]
    seen.update(x.index for x in constants)
    channels = op.options.get("channels_in") if op.kind == "LceBconv2d" else None
    sizes = [_float_nbytes(x, channels) for x in constants]
    largest = max(constants, key=lambda x: x.data.nbytes, default=None)
    return Row(
        layer=_layer(op),
        operator=op.kind,
        shape=out.shape,
        binary_macs=_macs(op, channels) if channels else 0,
        float_macs=0 if channels else _macs(op, None),
        multiplications=elements if op.kind in _MULTIPLYING else 0,
        nbytes=sum(x.data.nbytes for x in constants),
        float_nbytes=sum(sizes),
        stored="" if largest is None else _stored(largest, channels),
    )


def _layer(op: Operator) -> str:
    scopes = op.outputs[0].scopes
    if scopes:
        return scopes[0]
    return "image" if op.kind in ("RESHAPE", "REVERSE_V2") else "output"


def _is_bits(tensor: Tensor, channels: int | None) -> bool:
    return channels is not None and tensor.dtype == "int32" and len(tensor.shape) == 4


def _stored(tensor: Tensor, channels: int | None) -> str:
    return "1 bit" if _is_bits(tensor, channels) else tensor.dtype


def _float_nbytes(tensor: Tensor, channels: int | None) -> int:
    """Bytes of a constant in float32; numbers that are no weights keep theirs."""
    if _is_bits(tensor, channels):
        return int(np.prod(tensor.shape[:3])) * channels * 4
    if tensor.dtype in ("float16", "int8"):
        return int(np.prod(tensor.shape)) * 4
    return tensor.data.nbytes


def _macs(op: Operator, channels: int | None) -> int:
    """Count multiply-accumulates, those on padding included."""
    if op.kind not in ("LceBconv2d", "CONV_2D", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D"):
        return 0
    kernel = op.inputs[1].shape
    elements = int(np.prod(op.outputs[0].shape))
    if op.kind == "DEPTHWISE_CONV_2D":
        return elements * int(np.prod(kernel[1:3]))
    return elements * int(np.prod(kernel[1:-1])) * (channels or kernel[-1])


def blocks_before(model: tf.keras.Model) -> dict[str, list[str]]:
    """List the operators of each residual block as the model's layers have them.

    Args:
        model: A model of the zoo.

    Returns:
        Dict from the names of blocks to sorted operators; what `Report.blocks` is to
        be compared with.
    """
    layers = (call.layer for _, call in named_calls_of(model))
    return _by_block((layer.name, list(_unfolded(layer))) for layer in layers)


def multiplications_before(model: tf.keras.Model) -> int:
    """Count a model's float multiplications outside of kernels, before folding."""
    return sum(
        int(np.prod(call.outputs[0].shape[1:]))
        * sum(kind in _MULTIPLYING for kind in _unfolded(call.layer))
        for _, call in named_calls_of(model)
    )


def _unfolded(layer: tf.keras.layers.Layer) -> tuple[str, ...]:
    if not isinstance(layer, _keras.Conv2D):
        return _UNFOLDED.get(type(layer), ())
    is_quantized = isinstance(layer, lq.layers.QuantConv2D)
    convolve = ("SIGN",) if is_quantized and layer.input_quantizer else ()
    convolve += ("CONV_2D",)
    has_scale = is_quantized and layer.kernel_quantizer is not None
    return (*convolve, "MUL") if has_scale else convolve


def _by_block(pairs) -> dict[str, list[str]]:
    blocks: dict[str, list[str]] = {}
    for layer, operators in pairs:
        if place := place_of(layer):
            blocks.setdefault(place.block, []).extend(operators)
    return {name: sorted(operators) for name, operators in blocks.items()}


def format_blocks(before: dict[str, list[str]], after: dict[str, list[str]]) -> str:
    """Return a table of each block's operators before (if known) and after folding."""

    def counted(operators):
        counts = Counter(operators)
        return ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))

    rows = [
        (name, counted(before.get(name, ())), counted(operators))
        for name, operators in after.items()
    ]
    return format_table(("block", "before", "after"), rows)


def _count(number: int) -> str:
    return f"{number:,}" if number else ""
