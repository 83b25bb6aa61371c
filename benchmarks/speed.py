"""Training and inference speed, in tables of ratios from one run.

    python benchmarks/speed.py  # both networks, precisions, tasks; all norms; 1 hour
    python benchmarks/speed.py --networks reactnet18 --width 16 --tasks train
    python benchmarks/speed.py --torch-python VENV/bin/python  # and plain PyTorch

ReActNet-18 is measured on CIFAR's 32 px with batch 128, ReActNet-A at 224 px with 32.
Each row is a process of its own; the rows of a group are measured in turns, round by
round, so that whatever else the machine does meets all of them. Floors measured in the
same turns: `convolutions` is every convolution of the network, forward and backward,
and nothing else; `matmul` is what the machine's matrix multiplication would need for as
many multiply-adds. `weights alone` is what is computed for the weights of the method
and of a plain binary network. Rows with `jit_compile` are groups by themselves.
`--torch-python` names a Python with PyTorch, `--before` another checkout of this
project, whose library to compare with.
"""

import argparse
import contextlib
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


class Row:
    """One process that does steps when told to."""

    def __init__(self, name, python=sys.executable, root=None, **settings):
        self.name = name
        script = "speed_torch.py" if "torch" in name else "speed_worker.py"
        self.process = subprocess.Popen(
            [python, str(HERE / script), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={
                **os.environ,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "PYTHONPATH": str(root or HERE.parent),
            },
        )
        self.ready = self._read()  # one after the other: set-up is timed too
        self.seconds, self.cpu = [], []

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the process ended; run it by hand")
        return json.loads(line)

    def round(self, steps):
        # Where the process has ended, reading says so.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
        answer = self._read()
        self.seconds.append(answer["seconds"])
        self.cpu.append(answer["cpu"])
        self.memory = answer["memory"]

    def close(self):
        self.process.kill()


def measure(groups, rounds, steps):
    """Measure groups of rows, which are calls that start them, one after the other.

    Returns:
        All rows; `floor` of each is the first row's seconds in the same rounds.
    """
    (start_floor, *first), *others = groups
    floor = start_floor()
    done = [floor]
    for group in (first, *others):
        rows = [start() for start in group]
        for _ in range(rounds):
            for row in (floor, *rows):
                row.round(steps)
        for row in rows:
            row.floor = floor.seconds[-rounds:]
            row.close()
        done += rows
    floor.floor = floor.seconds
    floor.close()
    return done


def table(rows, batch, title):
    def ratio(row):
        pairs = zip(row.seconds, row.floor, strict=True)
        return statistics.median(a / b for a, b in pairs)

    print(f"\n{title}\n")
    print("| | images/s | time / convolutions | peak memory | set-up |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        rate = batch / statistics.median(row.seconds)
        print(
            f"| {row.name} | {rate:.1f} | {ratio(row):.2f} "
            f"| {row.memory / 1e9:.2f} GB | {row.ready['first']:.1f} s |",
            flush=True,
        )
    return {
        row.name: {
            "seconds": row.seconds,
            "cpu": row.cpu,
            "memory": row.memory,
            **row.ready,
        }
        for row in rows
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["reactnet18", "reactnet_a"])
    parser.add_argument("--width", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument(
        "--precision",
        nargs="+",
        default=["float32", "mixed_bfloat16"],
    )
    parser.add_argument("--norms", nargs="+", default=["free", "batch", "none"])
    parser.add_argument("--tasks", nargs="+", default=["train", "infer"])
    parser.add_argument(
        "--jit", nargs="*", help="norms of whole steps compiled by XLA; all by default"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps a round")
    parser.add_argument("--torch-python")
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--out", type=Path, help="write all measurements as JSON")
    args = parser.parse_args()
    results = {}
    for network, task, precision in itertools.product(
        args.networks, args.tasks, args.precision
    ):
        cifar = network != "reactnet_a"
        base = {
            "network": network,
            "width": args.width,
            "batch": args.batch or (128 if cifar else 32),
            "stem": "cifar" if cifar else "imagenet",
            "precision": precision,
            "task": task,
        }
        rows = measure(groups(base, args), args.rounds, args.steps)
        title = f"{network}, width {args.width or 'published'}, {precision}"
        title += f", batch {base['batch']}: {task}"
        results[title] = table(rows, base["batch"], title)
        if args.out:
            args.out.write_text(json.dumps(results, indent=1) + "\n")


def groups(base, args):
    """The rows of one table; the first is what the others are compared with."""

    def rows(suffix, kind="model", norms=args.norms, **kwargs):
        return [
            functools.partial(
                Row, f"{norm}{suffix}", kind=kind, norm=norm, **kwargs, **base
            )
            for norm in norms
        ]

    floors = [
        functools.partial(Row, kind, kind=kind, **base)
        for kind in ("convolutions", "matmul")
    ]
    first = [*floors, *rows("")]
    if base["task"] == "train":
        first += rows(", weights alone", kind="weights", norms=["free", "none"])
    others = rows(", before", root=args.before) if args.before else []
    is_plain = base["task"] == "train" and base["precision"] == "float32"
    if args.torch_python and is_plain and base["network"] == "reactnet18":
        for signs in ("functions", "published"):
            others += rows(
                f", torch, {signs}",
                norms=["free", "batch"],
                python=args.torch_python,
                signs=signs,
            )
    # One by one: a compiled step can take three times the memory.
    norms = args.norms if args.jit is None else args.jit
    compiled = [rows(", jit_compile", norms=[norm], jit=True) for norm in norms]
    return [first, *([others] if others else []), *compiled]


if __name__ == "__main__":
    main()
