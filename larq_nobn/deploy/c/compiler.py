"""A C compiler where there is one: to run what was written, and to measure it."""

import importlib.util
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import numpy as np

from larq_nobn._errors import UserError, first_line

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic", "-Werror")
_CORTEX_M4 = ("-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m4+vfp4d16sp")
_CORTEX_M4 += ("-ffreestanding", "-fomit-frame-pointer", "-fno-sanitize=all", "-g0")
_SECONDS = 300
# Reads images, writes outputs; `TRACED` calls also write what goes into them.
_DRIVER = """\
#include <stdio.h>
#include "{name}.c"

static union {{
  unsigned char bytes[{upper}_ARENA_BYTES];
  double alignment;
}} memory;
static {kind} image[{upper}_INPUT_SIZE];
static float result[{upper}_OUTPUT_SIZE];

int main(void) {{
  while (fread(image, sizeof image, 1, stdin) == 1) {{
    if ({name}_run{u8}(image, result, memory.bytes)) return 1;
    fwrite(result, sizeof result, 1, stdout);
  }}
  return 0;
}}
"""
_TRACE = """
#include <stdio.h>
static void trace(const float *x, const float *shift, int32_t pixels, int32_t channels)
{
  int32_t i;
  for (i = 0; i < pixels * channels; i++) {
    const float value = shift ? x[i] + shift[i % channels] : x[i];
    fwrite(&value, sizeof value, 1, stdout);
  }
}
#define traced_quantize(x, shift, pixels, channels, bits) \\
  (trace(x, shift, pixels, channels), quantize(x, shift, pixels, channels, bits))
#define traced_softmax(in, beta, rows, classes, out) \\
  (trace(in, NULL, rows, classes), softmax(in, beta, rows, classes, out))
static void run("""


def host_compiler() -> list[str] | None:
    """The command that compiles for this machine: `CC`, ziglang, or `cc`."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    return ["cc"] if shutil.which("cc") else None


class Program:
    """Exported C, compiled for this machine.

    Args:
        folder: Where NAME.c and NAME.h are.
        name: The network's.
        flags: Further ones of the compiler.
        u8: Whether it runs pixels instead of floats.
        traced: Whether it also gives what goes into signs and softmax.

    Raises:
        UserError: If there is no compiler, or it fails.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        flags: tuple[str, ...] = (),
        *,
        u8: bool = False,
        traced: bool = False,
    ):
        compiler = host_compiler()
        if compiler is None:
            raise UserError(
                "A C compiler is needed", got="none", fix="pip install ziglang"
            )
        here = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, here, ignore_errors=True)
        source = (folder / f"{name}.c").read_text()
        if traced:
            head, body = source.split("static void run(", 1)
            body = re.sub(r"\n  (quantize|softmax)\(", r"\n  traced_\1(", body)
            source = head + _TRACE.lstrip("\n") + body
        (here / f"{name}.c").write_text(source)
        (here / f"{name}.h").write_text((folder / f"{name}.h").read_text())
        self._type = np.uint8 if u8 else np.float32
        driver = _DRIVER.format(
            name=name,
            upper=name.upper(),
            kind="uint8_t" if u8 else "float",
            u8="_u8" if u8 else "",
        )
        (here / "driver.c").write_text(driver)
        command = [*compiler, "-std=c99", "-O2", "-g0", *flags]
        _call([*command, "driver.c", "-o", "driver.exe"], here)
        self._path = here / "driver.exe"

    def run(self, images: np.ndarray) -> np.ndarray:
        """Run images one by one.

        Args:
            images: Of shape `(count, height, width, channels)`.

        Returns:
            All floats that the program wrote, of shape `(count, ...)`.

        Raises:
            UserError: If it fails.
        """
        data = np.ascontiguousarray(images, self._type).tobytes()
        written = _call([str(self._path)], self._path.parent, data)
        return np.frombuffer(written, np.float32).reshape(len(images), -1)


def _call(command: list[str], folder: Path, data: bytes | None = None) -> bytes:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            input=data,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(command, first_line(error)) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        said = next((line for line in lines if "error" in line), f"{done.returncode}")
        raise _failed(command, said)
    return done.stdout


def _failed(command: list[str], what: str) -> UserError:
    return UserError(
        f"{Path(command[0]).name} must run",
        got=what,
        fix="set CC to a C compiler for this machine, or pip install ziglang",
    )


def cortex_m4_sizes(folder: Path, name: str) -> tuple[int, int] | None:
    """Bytes of code and of constants on a Cortex-M4, by ziglang's compiler.

    Args:
        folder: Where NAME.c and NAME.h are.
        name: The network's.

    Returns:
        Both, `None` without ziglang.
    """
    if not importlib.util.find_spec("ziglang"):
        return None
    with tempfile.TemporaryDirectory() as made:
        out = Path(made) / "network.o"
        command = [sys.executable, "-m", "ziglang", "cc", "-std=c99", "-O2"]
        command += [*_CORTEX_M4, "-c", str((folder / f"{name}.c").resolve())]
        _call([*command, "-o", str(out)], Path(made))
        return _section_sizes(out.read_bytes())


def _section_sizes(elf: bytes) -> tuple[int, int]:
    """Bytes of a 32-bit object that are executed, and that are only read."""
    start = struct.unpack_from("<I", elf, 32)[0]
    size, count = struct.unpack_from("<2H", elf, 46)
    code = constants = 0
    for i in range(count):
        _, kind, flags, _, _, length = struct.unpack_from("<6I", elf, start + i * size)
        # Allocated program bits; 4 marks what is executed.
        if kind == 1 and flags & 2:
            code, constants = (
                (code + length, constants) if flags & 4 else (code, constants + length)
            )
    return code, constants
