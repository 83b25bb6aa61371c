"""A Cortex-M in an emulator: runs exported C, counts instructions layer by layer.

`ziglang` compiles, `unicorn` (QEMU's core) runs; both are on PyPI.
"""

import re
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import unicorn as uc
from unicorn import arm_const as arm

_FLASH, _RAM, _HALT = 0x08000000, 0x20000000, 0x10000000
_STACK = 0x10100000
_LINK = """\
ENTRY({name}_run)
SECTIONS {{
  . = {flash:#x};
  .text : {{
    KEEP(*(.text.{name}_run .text.{name}_run_u8))
    *(.text .text.*) *(.rodata .rodata.*) *(.data .data.*)
  }}
  .ARM.exidx : {{ *(.ARM.exidx*) }}
}}
"""


@dataclass(frozen=True)
class Core:
    """A kind of Cortex-M: what to compile for, and what runs it here."""

    target: str
    cpu: str
    model: int
    has_fpu: bool = False


CORES = {
    "cortex-m0+": Core(
        "thumb-freestanding-eabi", "cortex_m0plus", arm.UC_CPU_ARM_CORTEX_M0
    ),
    "cortex-m3": Core("thumb-freestanding-eabi", "cortex_m3", arm.UC_CPU_ARM_CORTEX_M3),
    "cortex-m4": Core(
        "thumb-freestanding-eabihf",
        "cortex_m4+vfp4d16sp",
        arm.UC_CPU_ARM_CORTEX_M4,
        has_fpu=True,
    ),
    "cortex-m7": Core(
        "thumb-freestanding-eabihf",
        "cortex_m7+fp_armv8d16sp",
        arm.UC_CPU_ARM_CORTEX_M7,
        has_fpu=True,
    ),
}


@dataclass
class Run:
    """What a run gave.

    Attributes:
        output: The network's output.
        instructions: How many were executed.
        layers: Of each step: what it is and its instructions.
        stack: Bytes of stack.
        status: What the function returned.
    """

    output: np.ndarray
    instructions: int
    layers: list[tuple[str, int]] = field(default_factory=list)
    stack: int = 0
    status: int = 0


class Board:
    """A program in the flash of a Cortex-M.

    Args:
        source: NAME.c; NAME.h lies beside it.
        core: A name among `CORES`.
        flags: Of the compiler.
        by_layer: Whether to mark where layers begin, for counts of each.
    """

    def __init__(
        self,
        source: Path,
        core: str = "cortex-m4",
        flags: tuple[str, ...] = ("-O2",),
        by_layer: bool = True,
    ):
        self.core, self.name = CORES[core], source.stem
        self.layers: list[str] = []
        with tempfile.TemporaryDirectory() as folder:
            code = source.read_text()
            if by_layer:
                code = self._marked(code)
            Path(folder, source.name).write_text(code)
            Path(folder, "link.ld").write_text(
                _LINK.format(name=self.name, flash=_FLASH)
            )
            command = [sys.executable, "-m", "ziglang", "cc", "-std=c99", *flags]
            command += ["-target", self.core.target, f"-mcpu={self.core.cpu}", "-g0"]
            command += ["-ffreestanding", "-nostartfiles", f"-I{source.parent}"]
            command += ["-fno-sanitize=all", "-fno-stack-protector", "-Tlink.ld"]
            command += [
                "-ffunction-sections",
                "-fomit-frame-pointer",
                "-Wl,--gc-sections",
            ]
            command += [source.name, "-o", "program"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            self._load(Path(folder, "program").read_bytes())

    def _marked(self, code: str) -> str:
        head, body = code.split("static void run(", 1)
        body, tail = body.split("\n}\n", 1)

        def mark(match):
            self.layers.append(match[1])
            return f"\n  mark();\n  {match[0].strip()}"

        body = re.sub(r"\n  /\* (.*) \*/", mark, body)
        marker = '__attribute__((noinline)) void mark(void) { __asm__ volatile(""); }\n'
        return f"{head}{marker}static void run({body}\n}}\n{tail}"

    def _load(self, elf: bytes) -> None:
        """Keep what is loaded and where symbols are, of a 32-bit ELF file."""
        heads, count = struct.unpack_from("<I", elf, 28)[0], elf[44]
        self._segments = []
        for i in range(count):
            kind, offset, address, _, size = struct.unpack_from(
                "<5I", elf, heads + 32 * i
            )
            if kind == 1 and size:
                self._segments.append((address, elf[offset : offset + size]))
        start, size, count = (
            struct.unpack_from("<I", elf, 32)[0],
            *struct.unpack_from("<2H", elf, 46),
        )
        sections = [
            struct.unpack_from("<10I", elf, start + i * size) for i in range(count)
        ]
        self.symbols = {}
        for section in sections:
            if section[1] != 2:
                continue
            names = sections[section[6]][4]
            for i in range(section[4], section[4] + section[5], 16):
                name, value = struct.unpack_from("<2I", elf, i)
                end = elf.index(b"\0", names + name)
                self.symbols[elf[names + name : end].decode()] = value

    @property
    def flash_bytes(self) -> int:
        """Bytes of code and constants."""
        return sum(len(content) for _, content in self._segments)

    def run(self, image: np.ndarray, outputs: int, arena_bytes: int, u8=False) -> Run:
        """Run the network on an image, floats or (`u8`) pixels."""
        data = np.ascontiguousarray(image, np.uint8 if u8 else np.float32).tobytes()
        arena = _RAM
        source = arena + -(-arena_bytes // 8) * 8
        result = source + -(-len(data) // 8) * 8
        machine = uc.Uc(uc.UC_ARCH_ARM, uc.UC_MODE_THUMB | uc.UC_MODE_MCLASS)
        machine.ctl_set_cpu_model(self.core.model)
        machine.mem_map(_FLASH, 1 << 24)
        machine.mem_map(_RAM, 1 << 25)
        machine.mem_map(_HALT, 1 << 21)
        for address, content in self._segments:
            machine.mem_write(address, content)
        machine.mem_write(source, data)
        # What is left in memory must not matter.
        machine.mem_write(arena, b"\xa5" * arena_bytes)
        machine.mem_write(_STACK - 65536, b"\xa5" * 65536)
        if self.core.has_fpu:
            machine.reg_write(arm.UC_ARM_REG_C1_C0_2, 0xF << 20)
            machine.reg_write(arm.UC_ARM_REG_FPEXC, 1 << 30)
        registers = (arm.UC_ARM_REG_R0, arm.UC_ARM_REG_R1, arm.UC_ARM_REG_R2)
        for register, value in zip(registers, (source, result, arena), strict=True):
            machine.reg_write(register, value)
        machine.reg_write(arm.UC_ARM_REG_SP, _STACK)
        machine.reg_write(arm.UC_ARM_REG_LR, _HALT | 1)
        counts = self._count(machine)
        entry = self.symbols[f"{self.name}_run{'_u8' if u8 else ''}"]
        machine.emu_start(entry | 1, _HALT)
        status = machine.reg_read(arm.UC_ARM_REG_R0)
        output = np.frombuffer(machine.mem_read(result, 4 * outputs), "<f4")
        stack = bytes(machine.mem_read(_STACK - 65536, 65536))
        used = len(stack.lstrip(b"\xa5"))
        layers = list(zip(self.layers, counts[1:], strict=False))
        return Run(output, sum(counts), layers, used, status)

    def _count(self, machine) -> list[int]:
        """Count instructions as blocks are entered; the counts, by layer."""
        counts, sizes = [0], {}
        mark = self.symbols.get("mark", 0) & ~1

        def enter(machine, address, size, _):
            if address == mark:
                counts.append(0)
                return
            if (address, size) not in sizes:
                halves = np.frombuffer(machine.mem_read(address, size), "<u2")
                number = i = 0
                while i < len(halves):
                    i += 2 if halves[i] >> 11 >= 0b11101 else 1
                    number += 1
                sizes[address, size] = number
            counts[-1] += sizes[address, size]

        machine.hook_add(uc.UC_HOOK_BLOCK, enter)
        return counts
