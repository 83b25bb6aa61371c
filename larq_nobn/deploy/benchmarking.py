"""Latency and memory of the exported model, beside everything else, in one run.

Every contender runs in a process of its own, so that memory is its own and the number
of threads applies; all of one number of threads are alive together and take turns, so
that a machine that slows down slows them all.
"""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

import larq_nobn
from larq_nobn import zoo
from larq_nobn._errors import UserError
from larq_nobn._larq import import_larq_zoo
from larq_nobn._tables import format_table
from larq_nobn.deploy.conversion import convert, convert_function
from larq_nobn.deploy.survey import randomize
from larq_nobn.deploy.targets import get_target
from larq_nobn.networks import name_and_norm

CONTENDERS = ("lce", "lce-indirect", "keras", "tflite", "bn-twin", "quicknet")
_TITLES = {
    "lce": "exported, LCE",
    "lce-indirect": "exported, LCE with indirect convolution",
    "keras": "Keras",
    "tflite": "exported to plain TFLite, float (XNNPACK)",
    "bn-twin": "BN twin, LCE",
    "quicknet": "larq-zoo's QuickNet, LCE",
}


@dataclass(frozen=True)
class Measurement:
    """One contender at one number of threads.

    Attributes:
        contender: One of `CONTENDERS`.
        threads: Number of threads.
        median: Median latency of one image, in seconds.
        fastest: Shortest latency, in seconds.
        memory: Bytes of resident memory that loading and running the model added.
        nbytes: Size of the file, 0 for Keras.
    """

    contender: str
    threads: int
    median: float
    fastest: float
    memory: int
    nbytes: int


@dataclass(frozen=True)
class Benchmark:
    """All measurements of one run; `str()` of it is a table.

    Attributes:
        measurements: In the order of the contenders, then of threads.
        machine: Processor architecture.
        notes: What to know before quoting the figures.
    """

    measurements: tuple[Measurement, ...]
    machine: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Return the table with ratios to the first contender, and the notes."""
        base = {}
        for m in self.measurements:
            base.setdefault(m.threads, m.median)
        rows = [
            (
                _TITLES[m.contender],
                str(m.threads),
                f"{1e3 * m.median:.2f}",
                f"{1e3 * m.fastest:.2f}",
                f"{m.median / base[m.threads]:.2f}",
                f"{m.memory / 1e6:.1f}",
                f"{m.nbytes / 1e6:.2f}" if m.nbytes else "",
            )
            for m in self.measurements
        ]
        header = ("model", "threads", "median ms", "best ms", "ratio", "memory MB")
        table = format_table((*header, "file MB"), rows)
        return "\n".join([table, "", *self.notes])


def benchmark(
    model: tf.keras.Model,
    *,
    threads: Sequence[int] = (1, 2),
    contenders: Sequence[str] = CONTENDERS,
    runs: int = 50,
) -> Benchmark:
    """Measure a model after export beside its alternatives, one image at a time.

    Larq Compute Engine's fast kernels are for 64-bit Arm: elsewhere its figures show
    that the file runs, not how fast a device is.

    Args:
        model: A model of the zoo.
        threads: Numbers of threads to measure with.
        contenders: Some of `CONTENDERS`; ratios are to the first.
        runs: Timed runs of each.

    Returns:
        Latencies and memory.

    Raises:
        UserError: If an argument is wrong, or the model cannot be exported.

    Example:
        >>> print(benchmark(model, contenders=["lce", "keras"], threads=[1]))
    """
    for contender in contenders:
        if contender not in CONTENDERS:
            raise UserError(
                f"`contenders` must be among {', '.join(CONTENDERS)}",
                got=repr(contender),
                fix="choose some of them",
            )
    if runs < 1 or not threads or min(threads) < 1:
        raise UserError(
            "`runs` and `threads` must be positive",
            got=f"runs={runs}, threads={list(threads)}",
            fix="runs=50, threads=(1, 2)",
        )
    with tempfile.TemporaryDirectory() as folder:
        files, notes = _prepare(model, contenders, Path(folder))
        measurements = [m for n in threads for m in _measure(files, n, runs)]
    order = list(files)
    measurements.sort(key=lambda m: (order.index(m.contender), m.threads))
    machine = platform.machine()
    if machine.lower() not in ("aarch64", "arm64"):
        notes.append(
            f"This is {machine}: Larq Compute Engine's fast kernels are for 64-bit Arm "
            "only. Here it falls back on portable reference code, so its rows say that "
            "the file runs, not how fast a device is; docs/deploy.md has the command "
            "that runs the same file on an Arm board or a phone."
        )
    return Benchmark(tuple(measurements), machine, tuple(notes))


def _prepare(
    model: tf.keras.Model, contenders: Sequence[str], folder: Path
) -> tuple[dict[str, Path], list[str]]:
    """Write each contender's file; leave out, with a note, what does not exist."""
    files, notes = {}, []
    exported = None
    for contender in contenders:
        path = folder / f"{contender}.tflite"
        if contender in ("lce", "lce-indirect"):
            exported = exported or convert(model)
            path.write_bytes(exported)
        elif contender == "tflite":
            path.write_bytes(convert(model, "tflite"))
        elif contender == "keras":
            path = folder / "model.keras"
            model.save(path)
        elif contender == "quicknet":
            path.write_bytes(_quicknet(model))
        else:
            twin = _batch_norm_twin(model)
            if twin is None:
                notes.append(
                    f"No BN twin: {model.name} is no BN-free model of the zoo."
                )
                continue
            path.write_bytes(convert(twin))
        files[contender] = path
    return files, notes


def _batch_norm_twin(model: tf.keras.Model) -> tf.keras.Model | None:
    """Build the zoo's twin with batch norm, recognized by the model's name."""
    name, norm = name_and_norm(model) or (None, None)
    if norm != "free" or "batch" not in zoo.FAMILIES[name].norms:
        return None
    stem = model.get_layer("stem")
    twin = zoo.create_model(
        name,
        norm="batch",
        stem="imagenet" if stem.strides[0] > 1 else "cifar",
        width=stem.filters,
        input_shape=tuple(model.inputs[0].shape[1:]),
        num_classes=model.outputs[0].shape[-1],
        include_top=len(model.outputs[0].shape) == 2,
    )
    # Untrained binary kernels are all positive, and would be deduplicated.
    randomize(twin)
    return twin


def _quicknet(model: tf.keras.Model) -> bytes:
    """Convert larq-zoo's fastest network for the same images and classes."""
    quicknet = import_larq_zoo().sota.QuickNet(
        input_shape=tuple(model.inputs[0].shape[1:]),
        weights=None,
        num_classes=model.outputs[0].shape[-1],
    )
    return convert_function(
        lambda image: quicknet(image, training=False),
        [tuple(model.inputs[0].shape[1:])],
        get_target("arm"),
        quicknet.variables,
    )


def _measure(files: dict[str, Path], threads: int, runs: int) -> list[Measurement]:
    """Start all contenders, let them take turns, stop them."""
    with contextlib.ExitStack() as stack:
        workers = {
            contender: stack.enter_context(_Worker(contender, path, threads))
            for contender, path in files.items()
        }
        # Start all at once, but load one after the other.
        memory = {name: w.ask("load")["memory"] for name, w in workers.items()}
        times: dict[str, list[float]] = {contender: [] for contender in files}
        for _ in range(runs):
            for contender, worker in workers.items():
                times[contender].append(worker.ask("run")["seconds"])
        return [
            Measurement(
                contender,
                threads,
                statistics.median(times[contender]),
                min(times[contender]),
                memory[contender],
                path.stat().st_size if path.suffix == ".tflite" else 0,
            )
            for contender, path in files.items()
        ]


class _Worker:
    """A process that holds one contender; see `larq_nobn.deploy.worker`."""

    def __init__(self, contender: str, path: Path, threads: int):
        root = str(Path(larq_nobn.__file__).parents[1])
        paths = [root, os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, "-m", "larq_nobn.deploy.worker"]
        self._contender = contender
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [*command, contender, str(path), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            text=True,
        )

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._errors.close()

    def ask(self, request: str) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            UserError: If the process has died.
        """
        # An empty answer means that the process has died.
        with contextlib.suppress(BrokenPipeError):
            print(request, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines() or ["no message"]
            raise UserError(
                f"The benchmark of {_TITLES[self._contender]} must run",
                got=f"its process ended: {lines[-1]}",
                fix="free memory, or leave it out (--contenders)",
            )
        return json.loads(answer)
