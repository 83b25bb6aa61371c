"""Training and inference speed, in one table of ratios from one run.

    python benchmarks/speed.py                       # ReActNet-18, CIFAR, batch 128
    python benchmarks/speed.py --width 16
    python benchmarks/speed.py --network reactnet_a  # 224 px, batch 32
    python benchmarks/speed.py --torch-python VENV/bin/python  # and plain PyTorch

Each row is a process of its own; all rows of a precision are measured in turns, round
by round, so that whatever else the machine does meets all of them. Floors measured in
the same turns: `convolutions` is every convolution of the network, forward and
backward, and nothing else; `matmul` is what the machine's matrix multiplication would
need for as many multiply-adds. `weights alone` is what is computed for the weights of
the method and of a plain binary network. `--torch-python` names a Python with PyTorch,
`--before` another checkout of this project, whose library to compare with.
"""

import argparse
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
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self._read()
        self.seconds.append(answer["seconds"])
        self.cpu.append(answer["cpu"])
        self.memory = answer["memory"]

    def close(self):
        self.process.kill()


def measure(rows, rounds, steps):
    for _ in range(rounds):
        for row in rows:
            row.round(steps)
    for row in rows:
        row.close()


def table(rows, batch, title):
    floor = next(row for row in rows if row.name == "convolutions")

    def ratio(row, other):
        pairs = zip(row.seconds, other.seconds, strict=True)
        return statistics.median(a / b for a, b in pairs)

    print(f"\n{title}\n")
    print("| | images/s | time / convolutions | peak memory | set-up |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        rate = batch / statistics.median(row.seconds)
        print(
            f"| {row.name} | {rate:.1f} | {ratio(row, floor):.2f} "
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
    parser.add_argument("--network", default="reactnet18")
    parser.add_argument("--width", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument(
        "--precision",
        nargs="+",
        default=["float32", "mixed_bfloat16"],
    )
    parser.add_argument("--norms", nargs="+", default=["free", "batch", "none"])
    parser.add_argument("--tasks", nargs="+", default=["train", "infer"])
    parser.add_argument("--jit", action="store_true", help="also compile whole steps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps a round")
    parser.add_argument("--torch-python")
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--out", type=Path, help="write all measurements as JSON")
    args = parser.parse_args()
    cifar = args.network != "reactnet_a"
    batch = args.batch or (128 if cifar else 32)
    shared = {"network": args.network, "width": args.width, "batch": batch}
    shared["stem"] = "cifar" if cifar else "imagenet"
    results = {}
    for task in args.tasks:
        for precision in args.precision:
            base = {**shared, "precision": precision, "task": task}
            rows = [
                Row("convolutions", kind="convolutions", **base),
                Row("matmul", kind="matmul", **base),
            ]
            rows += [Row(f"{n}", kind="model", norm=n, **base) for n in args.norms]
            if task == "train":
                rows += [
                    Row(f"{n}, weights alone", kind="weights", norm=n, **base)
                    for n in ("free", "none")
                ]
            if args.before:
                rows += [
                    Row(f"{n}, before", root=args.before, kind="model", norm=n, **base)
                    for n in args.norms
                ]
            if args.jit:
                rows += [
                    Row(f"{n}, jit_compile", kind="model", norm=n, jit=True, **base)
                    for n in args.norms
                ]
            torch = args.torch_python and precision == "float32" and task == "train"
            if torch and args.network == "reactnet18":
                rows += [
                    Row(
                        f"{n}, torch, {signs}",
                        args.torch_python,
                        norm=n,
                        signs=signs,
                        **base,
                    )
                    for n in ("free", "batch")
                    for signs in ("functions", "published")
                ]
            measure(rows, args.rounds, args.steps)
            title = f"{args.network}, width {args.width or 'published'}, {precision}"
            title += f", batch {batch}: {task}"
            results[title] = table(rows, batch, title)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
