"""A file as C source, for devices without a file system."""

import re

from larq_nobn._errors import UserError
from larq_nobn.deploy.flatbuffer import Flatbuffer, Tensor

_TEMPLATE = """\
// A TFLite model of {size} bytes, written by larq_nobn.
// Input:  {inputs}
// Output: {outputs}
// Operators: {operators}
#ifndef {guard}
#define {guard}

#ifdef __cplusplus
#define {guard}_ALIGN alignas(16)
#else
#define {guard}_ALIGN _Alignas(16)
#endif

#define {guard}_SIZE {size}u

{guard}_ALIGN static const unsigned char {name}[{guard}_SIZE] = {{
{data}
}};

#endif  // {guard}
"""


def c_header(content: bytes, name: str = "larq_nobn_model") -> str:
    """Return a file as a C (C11) and C++ (C++11) header: an aligned constant array.

    Args:
        content: The file, from `convert`.
        name: Name of the array; `NAME_SIZE`, in capitals, is its length.

    Raises:
        UserError: If it is no TFLite file, or the name is no C identifier.

    Example:
        >>> pathlib.Path("model.h").write_text(c_header(content, "model"))
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise UserError(
            "`name` must be a C identifier",
            got=f"name={name!r}",
            fix="letters, digits and underscores, no digit first",
        )
    file = Flatbuffer(content)
    lines = (
        "    " + ", ".join(f"0x{byte:02x}" for byte in content[i : i + 12])
        for i in range(0, len(content), 12)
    )
    return _TEMPLATE.format(
        size=len(content),
        inputs=", ".join(map(_describe, file.inputs)),
        outputs=", ".join(map(_describe, file.outputs)),
        operators=", ".join(sorted({op.kind for op in file.operators()})),
        guard=name.upper(),
        name=name,
        data=",\n".join(lines),
    )


def _describe(tensor: Tensor) -> str:
    return f"{tensor.dtype} {' x '.join(map(str, tensor.shape))}"
