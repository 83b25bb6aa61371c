"""TFLite files: read, change, write, and name what is in them."""

import struct
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers import flexbuffers

from larq_nobn._errors import UserError
from larq_nobn._tensorflow import schema

_BUILTIN = {
    code: name
    for name, code in vars(schema.BuiltinOperator).items()
    if isinstance(code, int)
}
_TYPES = {
    code: name.lower()
    for name, code in vars(schema.TensorType).items()
    if isinstance(code, int)
}
# Raised when a damaged file is read.
DAMAGE = (ValueError, TypeError, LookupError, AttributeError, struct.error)
DAMAGE += (MemoryError, RecursionError)
_ITEM_BYTES = {"float32": 4, "float16": 2, "int32": 4, "int8": 1, "uint8": 1}
_ITEM_BYTES |= {"int64": 8, "bool": 1, "int16": 2, "float64": 8, "uint32": 4}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file.

    Attributes:
        index: Its number in the file.
        name: Its name, often several joined by `;`.
        shape: Its shape.
        dtype: Its type, such as `"float32"`.
        data: Its values as bytes, `None` unless it is constant.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None

    @property
    def scopes(self) -> list[str]:
        """The names of the layers whose operators were fused into this tensor."""
        parts = (part for part in self.name.split(";") if "/" in part)
        return list(dict.fromkeys(part.rsplit("/", 1)[0] for part in parts))

    @property
    def values(self) -> np.ndarray:
        """The values of a constant tensor of an ordinary type."""
        return self.data.view(self.dtype).reshape(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes, in the file if it is constant."""
        if self.data is not None:
            return self.data.nbytes
        return int(np.prod(self.shape)) * _ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Operator:
    """An operator of a file.

    Attributes:
        kind: Such as `"CONV_2D"` or `"LceBconv2d"`.
        inputs: Input tensors; `None` for one that is left out.
        outputs: Output tensors.
        options: TFLite's options, or a dict for Larq Compute Engine's operators.
    """

    kind: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Any

    @property
    def is_known(self) -> bool:
        """Whether TFLite or Larq Compute Engine has this operator."""
        return self.kind.startswith("Lce") or self.kind in _BUILTIN.values()


class Flatbuffer:
    """A TFLite file, taken apart.

    Args:
        content: The file's bytes.

    Attributes:
        model: The tree of TFLite's schema, which may be changed.

    Raises:
        UserError: If it is no TFLite file.
    """

    def __init__(self, content: bytes):
        try:
            if content[4:8] != b"TFL3":
                raise ValueError("its identifier is not TFL3")
            root = schema.Model.GetRootAs(bytearray(content), 0)
            self.model = schema.ModelT.InitFromObj(root)
            self.graph = self.model.subgraphs[0]
            self.operators()
        except DAMAGE as error:
            raise _not_tflite(content, error) from error

    def tensor(self, index: int) -> Tensor:
        """Return a tensor by its number."""
        tensor = self.graph.tensors[index]
        data = self.model.buffers[tensor.buffer].data
        return Tensor(
            index,
            tensor.name.decode() if tensor.name is not None else "",
            tuple(int(n) for n in tensor.shape) if tensor.shape is not None else (),
            _TYPES[tensor.type],
            None if data is None or not len(data) else np.asarray(data, np.uint8),
        )

    def operators(self) -> list[Operator]:
        """Return the operators in the order of their execution."""
        return [
            Operator(
                self._kind(op),
                tuple(None if i < 0 else self.tensor(i) for i in _list(op.inputs)),
                tuple(self.tensor(i) for i in _list(op.outputs)),
                self._options(op),
            )
            for op in self.graph.operators
        ]

    @property
    def inputs(self) -> list[Tensor]:
        """The graph's inputs."""
        return [self.tensor(i) for i in self.graph.inputs]

    @property
    def outputs(self) -> list[Tensor]:
        """The graph's outputs."""
        return [self.tensor(i) for i in self.graph.outputs]

    def _kind(self, op) -> str:
        code = self.model.operatorCodes[op.opcodeIndex]
        if code.customCode is not None:
            return code.customCode.decode()
        return _BUILTIN[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def _options(self, op) -> Any:
        if op.customOptions is None or not len(op.customOptions):
            return op.builtinOptions
        return flexbuffers.Loads(bytes(bytearray(op.customOptions)))

    def with_outputs(self, indices: list[int]) -> bytes:
        """Return the same file with other tensors as its outputs."""
        kept = self.graph.outputs, self.model.signatureDefs
        self.graph.outputs, self.model.signatureDefs = list(indices), None
        try:
            return self.pack()
        finally:
            self.graph.outputs, self.model.signatureDefs = kept

    def pack(self) -> bytes:
        """Return the file's bytes."""
        builder = _AlignedBuilder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


class _AlignedBuilder(flatbuffers.Builder):
    """Puts weights on multiples of 16 bytes, as TFLite's schema asks and C++ does."""

    def StartVector(self, elemSize, numElems, alignment):  # noqa: N802, N803
        if elemSize == 1 and alignment == 1:
            alignment = 16
        return super().StartVector(elemSize, numElems, alignment)


def _list(indices) -> list[int]:
    return [] if indices is None else [int(i) for i in indices]


def _not_tflite(content: bytes, error: Exception) -> UserError:
    return UserError(
        "The file must be a TFLite flatbuffer",
        got=f"{len(content)} bytes, {error or type(error).__name__}",
        fix="write it with larq-nobn export MODEL --out FILE.tflite",
    )
