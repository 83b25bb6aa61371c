"""What a network costs as C on microcontrollers: sizes, and instructions by layer.

python benchmarks/microcontroller.py [NAME_OR_TFLITE ...] [--layers]

Instructions are counted in an emulator (see `cortex_m.py`), for one image; those of a
binary convolution include all that is done in its pass: tables, counts, multiplier and
bias, the sum with the shortcut and the PReLU. Not cycles: a load takes two of them on a
Cortex-M4, most others one.
"""

import argparse
import tempfile
from pathlib import Path

from cortex_m import CORES, Board

from larq_nobn import deploy, zoo
from larq_nobn._tables import markdown_table
from larq_nobn.deploy.c.export import read_tflite
from larq_nobn.deploy.c.graph import read_graph
from larq_nobn.deploy.c.source import generated


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=["reactnet18_free_cifar10_width16"])
    parser.add_argument("--layers", action="store_true", help="a row a layer, too")
    args = parser.parse_args()
    for name in args.names:
        content = (
            read_tflite(Path(name))
            if name.endswith(".tflite")
            else deploy.convert(zoo.load(name))
        )
        print(f"\n{name}\n")
        _measure(content, args.layers)


def _measure(content: bytes, with_layers: bool) -> None:
    graph = read_graph(content)
    image, _ = generated(1, graph.input.shape)
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        report = deploy.to_c(content, folder, name="net", force=True)
        for core in CORES:
            board = Board(Path(folder, "net.c"), core)
            run = board.run(image, graph.output.size, report.arena_bytes)
            runs[core] = board.flash_bytes, run
    rows = []
    macs = report.total("binary_macs")
    for core, (flash, run) in runs.items():
        pairs = list(zip(run.layers, report.layers, strict=True))
        binary = sum(n for (_, n), layer in pairs if layer.binary_macs)
        each = [n / x.binary_macs for (_, n), x in pairs if x.binary_macs]
        rows.append(
            (
                core,
                f"{flash:,}",
                f"{report.arena_bytes:,}",
                f"{run.stack:,}",
                f"{run.instructions / 1e6:.2f} M",
                f"{binary / 1e6:.2f} M",
                f"{binary / macs:.3f}",
                f"{sum(each) / len(each):.3f}",
            )
        )
    header = ("core", "flash, bytes", "arena", "stack", "instructions", "binary")
    header += ("a binary MAC", "mean of layers")
    print(markdown_table(header, rows))
    if with_layers:
        print()
        _, run = runs["cortex-m4"]
        rows = [
            (
                layer.layer,
                layer.kernel,
                "x".join(map(str, layer.shape)),
                f"{count:,}",
                f"{count / macs:.2f}" if (macs := _macs(layer)) else "",
            )
            for (_, count), layer in zip(run.layers, report.layers, strict=True)
        ]
        header = ("layer", "kernel", "output", "instructions", "a MAC")
        print(markdown_table(header, rows))


def _macs(layer: deploy.CLayer) -> int:
    return layer.binary_macs or layer.float_macs


if __name__ == "__main__":
    main()
