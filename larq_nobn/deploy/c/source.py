"""Steps and their places as C source: NAME.c, NAME.h, NAME_test.c."""

import re
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import numpy as np

from larq_nobn.deploy.c.arena import Plan
from larq_nobn.deploy.c.graph import BITS, Graph, Place, Scratch, Step, Struct, Value

_TYPES = {"float32": "float", "int8": "int8_t", "int32": "int32_t"}
_TYPES |= {"uint32": "uint32_t"}

_HEADER = """\
/* {title}, as C99 by larq_nobn.
{notes}
   Give the compiler -std=c99 or -ffp-contract=off: a multiplication and an addition
   fused into one round otherwise. (clang is told in the source.) */
#ifndef {upper}_H
#define {upper}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {upper}_INPUT_SIZE {input_size} /* floats, {input_layout} */
#define {upper}_OUTPUT_SIZE {output_size} /* floats, {output_layout} */
#define {upper}_ARENA_BYTES {arena_bytes} /* aligned to 8 */

/* Runs the network. `arena` is its working memory, which keeps nothing from one run to
   the next. Returns 0, or 1 if a pointer is NULL or `arena` is not aligned to 8. */
int {name}_run(const float *input, float *output, void *arena);
{u8}
#ifdef __cplusplus
}}
#endif

#endif
"""
_HEADER_U8 = """
/* The same from pixels of 0 to 255: it computes (pixel / 255 - mean) / deviation with
   the means {mean} and deviations {std}. */
int {name}_run_u8(const uint8_t *pixels, float *output, void *arena);
"""
_SOURCE = """\
/* {title}, as C99 by larq_nobn; see {name}.h. */
#include "{name}.h"

#include <stddef.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#define AT(type, offset) ((type *)(void *)(arena + (offset)))

{kernels}
{constants}
static void run(const float *input, float *output, unsigned char *arena) {{
{calls}
}}

static int is_wrong(const void *input, const float *output, const void *arena) {{
  return !input || !output || !arena || (uintptr_t)arena % 8 != 0;
}}

int {name}_run(const float *input, float *output, void *arena) {{
  if (is_wrong(input, output, arena)) return 1;
  run(input, output, (unsigned char *)arena);
  return 0;
}}
"""
_SOURCE_U8 = """
int {name}_run_u8(const uint8_t *pixels, float *output, void *memory) {{
  static const float mean[{channels}] = {mean}, deviation[{channels}] = {std};
  unsigned char *arena = (unsigned char *)memory;
  float *input;
  int32_t i, c;
  if (is_wrong(pixels, output, memory)) return 1;
  input = AT(float, {offset});
  for (i = 0; i < {upper}_INPUT_SIZE; i += {channels})
    for (c = 0; c < {channels}; c++)
      input[i + c] = ((float)pixels[i + c] / 255.0f - mean[c]) / deviation[c];
  run(input, output, arena);
  return 0;
}}
"""
_FINISH = """\
BCONV_ALONE static void bconv_finish_{flags}(const struct bconv *c, int32_t f,
                                       const uint32_t *sums, const int32_t *factors,
                                       int32_t lanes, float *out) {{
  if (lanes == 4)
    bconv_finish(c, f, sums, factors, 4, {flags}, out);
  else
    bconv_finish(c, f, sums, factors, lanes, {flags}, out);
}}
"""
_TEST = """\
/* Does {name} compute what Larq Compute Engine's interpreter does? For instance
   cc -std=c99 -O2 {name}.c {name}_test.c -o {name}_test && ./{name}_test */
#include <stdio.h>

#include "{name}.h"

static union {{
  unsigned char bytes[{upper}_ARENA_BYTES];
  double alignment;
}} arena;
static float input[{upper}_INPUT_SIZE], output[{upper}_OUTPUT_SIZE];

static const float expected[{upper}_OUTPUT_SIZE] = {expected};
{u8}
/* Rounding differs by millionths, unless it flips a sign. */
static int differs(const char *what, const float *wanted) {{
  float largest = 0.0f, most = 0.0f;
  int i;
  for (i = 0; i < {upper}_OUTPUT_SIZE; i++) {{
    const float size = wanted[i] < 0.0f ? -wanted[i] : wanted[i];
    const float gap = output[i] < wanted[i] ? wanted[i] - output[i]
                                            : output[i] - wanted[i];
    if (size > largest) largest = size;
    if (!(gap <= most)) most = gap;
  }}
  printf("%s: deviates by %g of the largest output\\n", what,
         (double)(most / largest));
  return !(most <= 1e-4f * largest);
}}

int main(void) {{
  uint32_t random = {seed}u;
  int i, failed;
  for (i = 0; i < {upper}_INPUT_SIZE; i++) {{
    random = random * 1664525u + 1013904223u;
    input[i] = ((float)(random >> 24) - 127.5f) / 64.0f;
  }}
  failed = {name}_run(input, output, arena.bytes);
  failed |= differs("{name}_run", expected);
{main_u8}  return failed;
}}
"""
_TEST_U8 = """\
static uint8_t pixels[{upper}_INPUT_SIZE];
static const float expected_u8[{upper}_OUTPUT_SIZE] = {expected};
"""
_MAIN_U8 = """\
  for (i = 0; i < {upper}_INPUT_SIZE; i++) {{
    random = random * 1664525u + 1013904223u;
    pixels[i] = (uint8_t)(random >> 24);
  }}
  failed |= {name}_run_u8(pixels, output, arena.bytes);
  failed |= differs("{name}_run_u8", expected_u8);
"""


@dataclass(frozen=True)
class Preprocessing:
    """What makes floats of pixels: `(pixel / 255 - mean) / std`, by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """The floats, as C computes them."""
        mean, std = np.float32(self.mean), np.float32(self.std)
        return (np.float32(pixels) / np.float32(255) - mean) / std


@dataclass
class Writer:
    """Writes a network's C.

    Args:
        name: The network's, a C identifier.
        graph: Its steps.
        plan: Where their values lie.
        preprocessing: Of pixels, if it is known.
        title: What the network is, in some words.
        notes: More about it, for the header.
    """

    name: str
    graph: Graph
    plan: Plan
    preprocessing: Preprocessing | None
    title: str
    notes: list[str]
    constant_bytes: int = 0
    _constants: list[str] = field(default_factory=list)
    _names: dict[tuple, str] = field(default_factory=dict)

    def source(self) -> str:
        """The content of NAME.c."""
        self._constants, self._names, self.constant_bytes = [], {}, 0
        calls = "\n".join(
            f"  {line}"
            for i, step in enumerate(self.plan.steps)
            if step.kernel != "alias"
            for line in self._call(step, i)
        )
        result = self._pointer(self.graph.output, is_read=True)
        size = self.graph.output.size
        calls += f"\n  copy({result}, 1, {size}, {size}, {size}, output);"
        text = _SOURCE.format(
            title=self.title,
            name=self.name,
            kernels=self._kernels(),
            constants="\n".join(self._constants),
            calls=calls,
        )
        if self.preprocessing is not None:
            channels = len(self.preprocessing.mean)
            self.constant_bytes += 8 * channels
            text += _SOURCE_U8.format(
                name=self.name,
                upper=self.name.upper(),
                channels=channels,
                mean=_array(np.float32(self.preprocessing.mean)),
                std=_array(np.float32(self.preprocessing.std)),
                offset=self.plan.input_offset,
            )
        return text

    def header(self) -> str:
        """The content of NAME.h."""
        u8 = ""
        if self.preprocessing is not None:
            u8 = _HEADER_U8.format(
                name=self.name,
                mean=", ".join(map(str, self.preprocessing.mean)),
                std=", ".join(map(str, self.preprocessing.std)),
            )
        return _HEADER.format(
            title=self.title,
            notes="\n".join(f"   {line}".rstrip() for line in self.notes),
            name=self.name,
            upper=self.name.upper(),
            input_size=self.graph.input.size,
            input_layout=_layout(self.graph.input),
            output_size=self.graph.output.size,
            output_layout=_layout(self.graph.output),
            arena_bytes=self.plan.nbytes,
            u8=u8,
        )

    def test(
        self, seed: int, expected: np.ndarray, expected_u8: np.ndarray | None
    ) -> str:
        """The content of NAME_test.c.

        Args:
            seed: Of its inputs; see `generated`.
            expected: The outputs for the floats.
            expected_u8: Those for the pixels.
        """
        names = {"name": self.name, "upper": self.name.upper()}
        has_u8 = expected_u8 is not None
        return _TEST.format(
            **names,
            seed=seed,
            expected=_array(expected.reshape(-1)),
            u8=_TEST_U8.format(**names, expected=_array(expected_u8.reshape(-1)))
            if has_u8
            else "",
            main_u8=_MAIN_U8.format(**names) if has_u8 else "",
        )

    def _kernels(self) -> str:
        wanted = {step.kernel for step in self.plan.steps} | {"copy"}
        text = kernel_sections(wanted - {"alias"})
        # What each convolution does behind its sum is known to the compiler.
        flags = {s.flags for s in self.plan.steps if s.kernel == "bconv"} - {BITS}
        return text + "".join(_FINISH.format(flags=n) for n in sorted(flags))

    def _call(self, step: Step, i: int) -> list[str]:
        arguments = [self._argument(a, step, i) for a in step.arguments]
        if step.kernel == "bconv":
            has_bits = step.flags == BITS
            arguments.append("NULL" if has_bits else f"bconv_finish_{step.flags}")
        layer = re.sub(r"[^A-Za-z0-9_ ./-]", "_", step.layer)[:60].replace("*/", "")
        return [f"/* {layer} */", f"{step.kernel}({', '.join(arguments)});"]

    def _argument(self, argument, step: Step, i: int) -> str:
        if argument is None:
            return "NULL"
        if isinstance(argument, Value):
            return self._pointer(argument, argument is not step.output)
        if isinstance(argument, Place):
            pointer = self._pointer(argument.value, argument.value is not step.output)
            return f"{pointer} + {argument.offset}"
        if isinstance(argument, Scratch):
            return f"AT(uint32_t, {self.plan.scratch[id(step)]})"
        if isinstance(argument, Struct):
            return self._struct(argument, f"{step.kernel}_at_{i}")
        if isinstance(argument, np.ndarray):
            return self._array(argument)
        return _number(argument)

    def _pointer(self, value: Value, is_read: bool) -> str:
        offset = self.plan.offsets.get(id(value))
        if offset is None:
            return "input"
        kind = "uint8_t" if value.is_bits else "float"
        return f"AT({'const ' if is_read else ''}{kind}, {offset})"

    def _struct(self, struct: Struct, name: str) -> str:
        fields = []
        for value in struct.fields.values():
            if isinstance(value, dict):
                fields.append(f"{{{', '.join(map(str, value.values()))}}}")
            elif isinstance(value, np.ndarray):
                fields.append(self._array(value))
            else:
                fields.append("NULL" if value is None else _number(value))
        if struct.type == "window":
            fields = [f"{v}" for v in struct.fields.values()]
        self.constant_bytes += 4 * sum(f.count(",") + 1 for f in fields)
        self._constants.append(
            f"static const struct {struct.type} {name} = {{{', '.join(fields)}}};"
        )
        return f"&{name}"

    def _array(self, values: np.ndarray) -> str:
        key = (values.dtype.str, values.tobytes())
        if key not in self._names:
            name = self._names[key] = f"constant_{len(self._names)}"
            kind = _TYPES[values.dtype.name]
            self.constant_bytes += values.nbytes
            self._constants.append(
                f"static const {kind} {name}[{values.size}] = {_array(values)};"
            )
        return self._names[key]


def generated(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The floats and the pixels that NAME_test.c generates, of one image.

    Args:
        seed: Where the generator starts.
        shape: `(height, width, channels)`.
    """
    size = int(np.prod(shape))
    numbers = np.empty(2 * size, np.int64)
    state = seed
    for i in range(2 * size):
        state = (state * 1664525 + 1013904223) % 2**32
        numbers[i] = state >> 24
    floats = (np.float32(numbers[:size]) - np.float32(127.5)) / np.float32(64)
    return floats.reshape(1, *shape), numbers[size:].reshape(1, *shape)


@cache
def _sections() -> dict[str, tuple[list[str], str]]:
    """What `kernels.c` holds: names, to needed sections and text."""
    text = resources.files("larq_nobn.deploy.c").joinpath("kernels.c").read_text()
    parts = re.split(r"^/\* @(\w+):(.*?) ?\*/\n", text, flags=re.MULTILINE)[1:]
    names, needs, bodies = parts[::3], parts[1::3], parts[2::3]
    return {n: (m.split(), b) for n, m, b in zip(names, needs, bodies, strict=True)}


def kernel_sections(wanted: set[str]) -> str:
    """The sections of `kernels.c` of these names, with those that they need."""
    sections = _sections()
    todo, needed = list(wanted), set()
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            todo += sections[name][0]
    return "".join(body for name, (_, body) in sections.items() if name in needed)


def _layout(value: Value) -> str:
    return " x ".join(map(str, value.shape)) or "one"


def _number(value) -> str:
    if isinstance(value, float | np.floating):
        if not np.isfinite(value):
            raise ValueError("a constant that is not finite")
        text = f"{np.float32(value):.9g}"
        return text + ("f" if re.search(r"[.e]", text) else ".0f")
    return f"{value}u" if isinstance(value, np.uint32) else str(int(value))


def _array(values: np.ndarray) -> str:
    if values.dtype == np.uint32:
        items = [f"0x{v:x}u" for v in values.reshape(-1).tolist()]
    else:
        items = [_number(v) for v in values.reshape(-1)]
    lines, line = [], "  "
    for item in items:
        if len(line) + len(item) > 86:
            lines.append(line.rstrip())
            line = "  "
        line += f"{item}, "
    return "{\n" + "\n".join([*lines, line.rstrip(" ,")]) + "}"
