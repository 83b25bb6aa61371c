"""Compile an exported training for an H100 on a machine without one.

    python benchmarks/check_h100.py DIR

Finds what NVIDIA's plugin refuses (an opcode that its serialization does not know,
say), and counts the convolutions that became cuDNN's. Says nothing of speed. `make
check-h100` sets up what it needs, jax with its CUDA plugin; `h100.txtpb` describes the
device.
"""

import gzip
import importlib.util
import os
import sys
import time
from pathlib import Path

# As run.py has it.
os.environ["XLA_FLAGS"] = "--xla_allow_excess_precision=false"
import jax
import jax_plugins.xla_cuda13 as plugin
from jax._src.interpreters import mlir
from jax.experimental import topologies
from jaxlib import _jax, xla_client
from jaxlib.mlir import ir


def load_runner(folder: Path):
    spec = importlib.util.spec_from_file_location("run", folder / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def h100():
    # It asks for a driver, which compiling does not need.
    plugin._check_cuda_versions = lambda *_, **__: None
    target = Path(__file__).with_name("h100.txtpb").read_text()
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=target, topology="1x1x1"
    )
    return topology.devices[0]


def compile_for(device, program: bytes):
    with mlir.make_ir_context():
        module = ir.Module.parse(_jax.mlir.hlo_to_stablehlo(program))
    return device.client.compile(
        module, _jax.DeviceList((device,)), xla_client.CompileOptions()
    )


def main(folder: Path) -> int:
    jax.config.update("jax_enable_x64", True)
    runner = load_runner(folder)
    try:
        description, _, _ = runner.read_export(folder)
    except runner.BadInput as error:
        print(f"check_h100.py: error: {error}", file=sys.stderr)
        return 2
    device, failed = h100(), []
    for name, entry in description["programs"].items():
        began = time.monotonic()
        try:
            packed = (folder / entry["file"]["name"]).read_bytes()
            compiled = compile_for(device, gzip.decompress(packed))
        except (RuntimeError, ValueError) as error:
            failed.append(name)
            print(f"{name}: refused: {str(error).splitlines()[0]}", flush=True)
            continue
        text = compiled.hlo_modules()[0].to_string()
        memory = compiled.get_compiled_memory_stats()
        needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        print(
            f"{name}: compiled in {time.monotonic() - began:.0f} s; "
            f"{entry['convolutions']} convolutions, {text.count('__cudnn$conv')} of "
            f"cuDNN; {needed / 1e9:.2f} GB of memory",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
