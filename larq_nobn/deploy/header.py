"""A file as C source, for devices without a file system."""

import re

from larq_nobn._errors import UserError
from larq_nobn.deploy.flatbuffer import Flatbuffer, Tensor

_TEMPLATE = """\
// A TFLite model of {size} bytes, written by larq_nobn.
// Input:  {inputs}
// Output: {outputs}
// Operators: {operators}
// Runtime: {runtime}
#ifndef {guard}
#define {guard}

#ifdef __cplusplus
#define {macro}_ALIGN alignas(16)
#else
#define {macro}_ALIGN _Alignas(16)
#endif

#define {macro}_SIZE {size}u

{macro}_ALIGN static const unsigned char {name}[{macro}_SIZE] = {{
{data}
}};

#endif  // {guard}
"""
_LARQ = """\
TFLite with Larq Compute Engine's operators (64-bit Arm Linux, Android, x86);
//          TensorFlow Lite Micro does not have them: export with --target tflite"""
_PLAIN = "TensorFlow Lite Micro, or TFLite, with these operators"


def c_header(
    content: bytes, name: str = "larq_nobn_model", guard: str | None = None
) -> str:
    """Return a file as a C (C11) and C++ (C++11) header: an aligned constant array.

    Args:
        content: The file, from `convert`.
        name: Name of the array; `NAME_SIZE`, in capitals, is its length.
        guard: Name of the macro that guards the header; by default the array's name in
            capitals.

    Raises:
        UserError: If it is no TFLite file, or the names are no C identifiers, or the
            same one.

    Example:
        >>> pathlib.Path("model.h").write_text(c_header(content, "model"))
    """
    guard = guard or (name.upper() if name != name.upper() else f"{name}_H")
    for what, given in (("name", name), ("guard", guard)):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", given):
            raise UserError(
                f"`{what}` must be a C identifier",
                got=f"{what}={given!r}",
                fix="letters, digits and underscores, no digit first",
            )
    if name == guard:
        raise UserError(
            "`name` and `guard` must differ: a macro would replace the array's name",
            got=f"{name!r} for both",
            fix="leave out the guard",
        )
    file = Flatbuffer(content)
    kinds = {op.kind for op in file.operators()}
    lines = (
        "    " + ", ".join(f"0x{byte:02x}" for byte in content[i : i + 12])
        for i in range(0, len(content), 12)
    )
    return _TEMPLATE.format(
        size=len(content),
        inputs=", ".join(_describe(file, x) for x in file.inputs),
        outputs=", ".join(_describe(file, x) for x in file.outputs),
        operators=", ".join(sorted(kinds)),
        runtime=_LARQ if any(kind.startswith("Lce") for kind in kinds) else _PLAIN,
        guard=guard,
        macro=name.upper(),
        name=name,
        data=",\n".join(lines),
    )


def _describe(file: Flatbuffer, tensor: Tensor) -> str:
    text = f"{tensor.dtype} {' x '.join(map(str, tensor.shape))}"
    quantization = file.graph.tensors[tensor.index].quantization
    if quantization is None or quantization.scale is None:
        return text
    scale, zero = float(quantization.scale[0]), int(quantization.zeroPoint[0])
    return f"{text} (n stands for {scale:.9g} * (n - {zero}))".replace("- -", "+ ")
