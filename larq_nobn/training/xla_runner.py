"""Train what `larq-nobn offload` exported: needs jax and NumPy, no TensorFlow.

    python DIR/run.py --out OUT --seconds 575

trains both steps on the best device that jax finds. By the clock it chooses the epochs
of both steps from a measured epoch of each; `--epochs N [M]` gives them; with neither
they are the recipe's. The learning rate keeps the recipe's schedule over that number.

In OUT: `training.json` and `weights_*.npz` are what to bring back; `state/` is for
`--resume` on the same machine, and goes when the training is complete. Exit status: 0
if it is, 1 if it diverged or learns nothing, 2 after wrong input, 3 if the time was
up too early, 143 after SIGTERM (after 3 and 143, `--resume` goes on).
"""

import argparse
import concurrent.futures
import gzip
import hashlib
import json
import math
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np

STARTED = time.monotonic()
# Version of the folder's layout and of the results; both sides must agree.
FORMAT = 2
_ENTRY_BYTES = 600  # What an array in a .npz takes besides its content, at most.


_OWN_NAME = re.compile(r"(weights|state)_step[12]_\d{5,}_\d+\.npz")


class BadInput(Exception):
    """What the user can put right, in one line."""

    status = 2


class Failed(BadInput):
    """A training that is not worth going on with."""

    status = 1


def write_file(path: Path, write) -> dict:
    """Write a file whole or not at all; returns its name, size and checksum."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    entry = {
        "name": path.name,
        "bytes": temporary.stat().st_size,
        "sha256": hashlib.sha256(temporary.read_bytes()).hexdigest(),
    }
    temporary.replace(path)
    return entry


def write_json(path: Path, content) -> None:
    """Write JSON whole or not at all."""
    write_file(path, lambda file: file.write(json.dumps(content, indent=1).encode()))


def write_pieces(folder: Path, stem: str, arrays: dict, most: float, save) -> dict:
    """Write arrays into files `STEM_0.npz`, ... of limited size.

    Args:
        folder: Where to.
        stem: First part of the files' names.
        arrays: NumPy arrays by name.
        most: Bytes of a file, before compression.
        save: `numpy.savez` or `numpy.savez_compressed`.

    Returns:
        What `read_pieces` needs, as JSON.
    """
    pieces, left = [], 0
    for name, array in arrays.items():
        flat, start, part = np.ascontiguousarray(array).reshape(-1), 0, 0
        while start < flat.size or part == 0:
            count = int((left - _ENTRY_BYTES) // flat.itemsize)
            if count < 1:
                pieces.append({})
                left = most
                count = max(1, int((left - _ENTRY_BYTES) // flat.itemsize))
            values = flat[start : start + count]
            pieces[-1][f"{name}#{part}"] = values
            left -= values.nbytes + _ENTRY_BYTES
            start, part = start + count, part + 1
    files = [
        write_file(folder / f"{stem}_{i}.npz", lambda file, p=piece: save(file, **p))
        for i, piece in enumerate(pieces)
    ]
    kinds = {k: [list(a.shape), str(a.dtype)] for k, a in arrays.items()}
    return {"files": files, "arrays": kinds}


def check_files(folder: Path, files: list) -> None:
    """Check that files are there, whole, and those that were written.

    Raises:
        BadInput: If not.
    """
    names = [file["name"] for file in files]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        kind = f"{missing[0].split('_')[0]}_*.npz"
        others = sorted({path.name for path in folder.glob(kind)} - set(names))
        but = f" (but {', '.join(others)}, of another save)" if others else ""
        raise BadInput(
            f"{folder} must hold all {len(files)} files that were written together. "
            f"Received: no {', '.join(missing)}{but}. Fix: copy what is missing."
        )
    for file in files:
        path = folder / file["name"]
        size = path.stat().st_size
        if size < file["bytes"]:
            what = f"{size} bytes: it is cut off"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != file["sha256"]:
            what = "another SHA-256: of another recipe or save, or damaged"
        else:
            continue
        raise BadInput(
            f"{path} must be the file of {file['bytes']} bytes that was written with "
            f"the others. Received: {what}. Fix: copy it again, or all of them."
        )


def read_pieces(folder: Path, pieces: dict) -> dict:
    """Arrays by name, as `write_pieces` wrote them.

    Raises:
        BadInput: If a file is missing, damaged or another.
    """
    check_files(folder, pieces["files"])
    parts = {}
    for file in pieces["files"]:
        with np.load(folder / file["name"], allow_pickle=False) as content:
            for key in content.files:
                name, _, part = key.rpartition("#")
                parts.setdefault(name, {})[int(part)] = content[key]
    return {
        name: np.concatenate([parts[name][i] for i in range(len(parts[name]))])
        .astype(dtype)
        .reshape(shape)
        for name, (shape, dtype) in pieces["arrays"].items()
    }


def read_json(path: Path, what: str, fix: str) -> dict:
    """Read one of our JSON files and check its format.

    Raises:
        BadInput: If it is missing, unreadable or of another version.
    """
    if not path.is_file():
        raise BadInput(f"{what} must be there. Received: no {path}. Fix: {fix}.")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise BadInput(
            f"{what} must be JSON. Received: {path}, {error}. Fix: copy it again."
        ) from error
    if content.get("format") != FORMAT:
        raise BadInput(
            f"{what} must be of this program's format, {FORMAT}. Received: {path} of "
            f"format {content.get('format')}. Fix: take both from one version of "
            "larq_nobn (run.py lies beside what it runs)."
        )
    return content


def read_export(folder: Path) -> tuple[dict, dict, dict]:
    """Read and check what `larq-nobn offload` wrote.

    Args:
        folder: Where it is.

    Returns:
        The description, the data and the arrays that a training starts from.

    Raises:
        BadInput: If something is missing, damaged or of another export.
    """
    what = read_json(
        folder / "description.json",
        "The exported training",
        "run the run.py of the folder that larq-nobn offload wrote, or --folder",
    )
    check_files(folder, [entry["file"] for entry in what["programs"].values()])
    data, arrays = (read_pieces(folder, what[part]) for part in ("data", "weights"))
    for name in ("train_images", "test_images"):
        # Stored as differences along each row.
        data[name] = np.cumsum(data[name], axis=2, dtype=np.uint8)
    for name, (scale, dtype) in what["scales"].items():
        arrays[name] = (arrays[name].astype(dtype) * scale).astype(dtype)
    return what, data, arrays


def learning_rate(recipe: dict, epoch: int, epochs: int) -> float:
    """Rate of an epoch, counted from 0 in its step of so many: as `Recipe` has it."""
    base, warmup = recipe["learning_rate"], recipe["warmup_epochs"]
    if epoch < warmup:
        return base * (epoch + 1) / (warmup + 1)
    done, total = epoch - warmup, max(epochs - warmup, 1)
    if recipe["schedule"] == "linear":
        return base * (1 - (done + 1) / total)
    return base * (1 + math.cos(math.pi * done / total)) / 2


def plan_epochs(shares: dict, seconds: dict, left: float) -> dict:
    """Epochs of each step that fit into the time.

    Args:
        shares: The recipe's epochs by step, whose proportion is kept.
        seconds: What an epoch takes, by step.
        left: Seconds that are left.

    Raises:
        BadInput: If there is no time for four epochs.
    """
    steps = [step for step, share in shares.items() if share]
    least = 4 // len(steps)
    count = left / sum(shares[step] * seconds[step] for step in steps)
    plan = dict.fromkeys(shares, 0)
    for step in steps:
        plan[step] = max(least, int(count * shares[step]))
    last = steps[-1]
    before = sum(plan[step] * seconds[step] for step in steps[:-1])
    plan[last] = int((left - before) / seconds[last])
    if plan[last] < least:
        wanted = sum(least * seconds[step] for step in steps)
        raise BadInput(
            "--seconds must leave time for four epochs. Received: "
            f"{max(left, 0):.1f} s after compiling, where four take {wanted:.1f} s. "
            f"Fix: at least {math.ceil(1.1 * (wanted - left))} s more."
        )
    return plan


def learns_nothing(labels: np.ndarray, top1: float, epochs: int, steps: int) -> bool:
    """Whether a step is hardly better than naming the most frequent class.

    Args:
        labels: The training labels.
        top1: Training accuracy in percent.
        epochs: Epochs done in this step.
        steps: Steps of the optimizer done in this step.
    """
    chance = 100 * np.bincount(labels).max() / len(labels)
    return epochs >= 4 and steps >= 300 and top1 < 1.2 * chance


class Device:
    """The accelerator, by what both tested versions of jax have.

    Args:
        platform: A platform of jax, such as `"cpu"` or `"cuda"`; `None` for the best.
    """

    def __init__(self, platform: str | None):
        # The exported rounding to bfloat16 is part of the recipe.
        flags = f"--xla_allow_excess_precision=false {os.environ.get('XLA_FLAGS', '')}"
        os.environ["XLA_FLAGS"] = flags.strip()
        try:
            import jax
            from jaxlib import _jax, xla_client

            self._to_stablehlo = _jax.mlir.hlo_to_stablehlo
            self._devices = _jax.DeviceList
        except (ImportError, AttributeError) as error:
            raise BadInput(
                "jax must be installed, in a version that run.py knows. Received: "
                f"{error}. Fix: pip install jax==0.10.2 (Python 3.11) or jax==0.11.2."
            ) from error
        # By default jax truncates 64-bit numbers to 32 bits.
        jax.config.update("jax_enable_x64", True)
        try:
            self._device = jax.local_devices(backend=platform)[0]
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise BadInput(
                f"jax must find a device. Received: --platform {platform}, {reason}. "
                "Fix: install jax for the device, or leave --platform out."
            ) from error
        self._put = jax.device_put
        self._options = xla_client.CompileOptions
        self.versions = {"jax": jax.__version__, "device": self._device.device_kind}

    def put(self, array):
        """Copy an array to the device."""
        return self._put(np.asarray(array), self._device)

    def compile(self, program: bytes):
        """Make a serialized program ready to run."""
        return self._device.client.compile_and_load(
            self._to_stablehlo(program),
            self._devices((self._device,)),
            self._options(),
        )


class Network:
    """The exported programs, their data and the state of a step, on a device.

    Args:
        folder: What `larq-nobn offload` wrote.
        exported: Its content, from `read_export`.
        device: Where to run it.
    """

    def __init__(self, folder: Path, exported: tuple, device: Device):
        self.description, data, arrays = exported
        self.labels = data["train_labels"]
        self.initial = {k: v for k, v in arrays.items() if k.startswith("model/")}
        self.versions = device.versions
        self._put = device.put
        # Parameters that are read but never updated, such as a teacher's weights.
        fixed = (name for name in arrays if name.startswith("fixed/"))
        self._fixed = {name: device.put(arrays[name]) for name in fixed}
        self._data = {name: device.put(array) for name, array in data.items()}
        self.state = {}

        def compile(program):
            content = (folder / program["file"]["name"]).read_bytes()
            return device.compile(gzip.decompress(content))

        programs = self.description["programs"]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            compiled = pool.map(compile, programs.values())
            self._programs = dict(zip(programs, compiled, strict=True))

    def begin(self, step: str, weights: dict) -> None:
        """Start a step from weights: optimizer and metrics anew, averages from them."""
        self.restore(weights)
        for name, (shape, dtype) in self.description["zeros"][step].items():
            self.state[name] = self._put(np.zeros(shape, dtype))
        for name in self.description["averages"]:
            self.state[f"average/{name}"] = self._put(weights[f"model/{name}"])

    def restore(self, state: dict) -> None:
        """Put a saved state onto the device."""
        self.state = {name: self._put(array) for name, array in state.items()}

    def _execute(self, name: str, arguments: list, state: dict) -> list:
        program = self.description["programs"][name]
        part = "test" if name.endswith("_test") else "train"
        pictures = [self._data[f"{part}_images"], self._data[f"{part}_labels"]]
        arguments = pictures + [self._put(argument) for argument in arguments]
        known = {**self._fixed, **state}
        captured = program["captured"]
        results = self._programs[name].execute(
            arguments + [known[variable] for variable in captured]
        )
        # Donated parameters: each is replaced by the result that reuses its memory.
        for result, parameter in program["aliases"]:
            state[captured[parameter - len(arguments)]] = results[result]
        return [float(np.asarray(result)) for result in results[:2]]

    def epoch(self, step: str, number: int, rate: float) -> dict:
        """Train one epoch.

        Args:
            step: `"step1"` or `"step2"`.
            number: Of the epoch in the whole training: its order and augmentation.
            rate: Its learning rate.
        """
        what = self.description
        order = np.random.default_rng([what["recipe"]["seed"], number])
        order = order.permutation(len(self.labels))[: what["used_examples"]]
        arguments = order.astype(np.int32), np.int64(number), np.float32(rate)
        loss, accuracy = self._execute(step, list(arguments), self.state)
        return {"loss": loss, "top1": 100 * accuracy}

    def test(self, step: str) -> dict:
        """Loss and accuracy on the test images, of the averages if there are any."""
        averaged = {f"model/{n}": f"average/{n}" for n in self.description["averages"]}
        state = {n: self.state[averaged.get(n, n)] for n in self.state}
        loss, hits = self._execute(f"{step}_test", [], state)
        count = len(self._data["test_labels"])
        return {"test_loss": loss / count, "test_top1": 100 * hits / count}

    def weights(self) -> dict:
        """What a step hands on: its weights, or their averages."""
        averages = {f"model/{n}" for n in self.description["averages"]}
        source = {
            name: name.replace("model/", "average/", 1) if name in averages else name
            for name in self.initial
        }
        # Copy: a later epoch may reuse the buffers.
        return {name: np.array(self.state[source[name]]) for name in self.initial}


class Run:
    """A training with its folder: plan, history, tests, saves.

    Args:
        network: What trains.
        options: The command line's.
    """

    _KEPT = ("step", "number", "plan", "by_clock", "best_top1", "history")

    def __init__(self, network: Network, options: argparse.Namespace):
        self.network, self.options = network, options
        self.recipe = network.description["recipe"]
        self.deadline = STARTED + options.seconds
        # Measured seconds: an epoch of each step, a test, a save.
        self.each, self.testing, self.saving = {}, 0.0, 0.0
        self.plan, self.history = {}, {"step1": [], "step2": []}
        self.step, self.best, self.best_top1, self.number = "", {}, -1.0, 0
        self.by_clock = math.isfinite(options.seconds) and not options.epochs
        self.stopped = False
        options.out.mkdir(parents=True, exist_ok=True)
        self.state = options.state or options.out / "state"
        self.state.mkdir(parents=True, exist_ok=True)

    def stop(self, number, frame) -> None:
        """On a signal: save behind this epoch, and end; at once on a second one."""
        self.stopped = True
        signal.signal(number, signal.SIG_DFL)

    def left(self) -> float:
        """Seconds until the last test and save have to begin."""
        ending = self.testing + 1.5 * self.saving + 0.5
        return self.deadline - time.monotonic() - ending

    def measure(self, step: str, weights: dict) -> None:
        """Take the time of an epoch and a test, and throw away what they trained."""
        # The first call includes one-time loading, so time the second.
        for _ in range(2):
            self.network.begin(step, weights)
            began = time.monotonic()
            self.network.epoch(step, 0, self.recipe["learning_rate"])
            epoch = time.monotonic()
            self.network.test(step)
            test = time.monotonic() - epoch
            seconds = epoch - began
            if seconds > 0.02 * self.left():
                break
        self.testing = max(self.testing, test)
        self.each[step] = 1.03 * seconds
        speed = self.network.description["used_examples"] / seconds
        say(f"{step}: {seconds:.3f} s an epoch ({speed:.0f} images/s)")

    def start(self) -> None:
        """Plan a training from its beginning."""
        shares = self.network.description["epochs"]
        steps = [step for step, share in shares.items() if share]
        self.plan = self.given(shares)
        self.step = steps[0]
        self.network.begin(self.step, self.network.initial)
        # Times a save, and fails now rather than later if it cannot be written.
        self.save()
        if self.by_clock:
            for step in steps:
                self.measure(step, self.network.initial)
            costs = {step: self.cost(step) for step in steps}
            left = self.left() - len(steps) * self.testing
            self.plan = plan_epochs(shares, costs, left)
        self.network.begin(self.step, self.network.initial)

    def given(self, plan: dict) -> dict:
        """A plan with the epochs that the command line gives, if any."""
        epochs = self.options.epochs
        steps = [step for step, count in plan.items() if count]
        if not epochs:
            return plan
        if len(epochs) > len(steps):
            raise BadInput(
                "--epochs must be one number for the recipe's only step. Received: "
                f"{epochs}. Fix: --epochs {epochs[-1]}."
            )
        return {**plan, **dict(zip(steps, 2 * epochs, strict=False))}

    def cost(self, step: str) -> float:
        """Seconds of an epoch with its share of the tests and saves."""
        each = self.each[step] + self.testing / self.options.test_every
        return each + self.saving * min(1, each / max(self.options.save_every, 1e-9))

    def run(self) -> int:
        """Train what is left; the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        plan = ", ".join(f"{n} of {step}" for step, n in self.plan.items())
        say(f"epochs: {plan}; {sum(map(len, self.history.values()))} are done")
        while True:
            status = self._run_step()
            if status is not None or self.step == "step2":
                break
            self.network.begin("step2", self.best)
            self.step, self.best, self.best_top1 = "step2", {}, -1.0
            if self.by_clock and "step2" in self.each:
                left = self.left() - self.testing
                self.plan["step2"] = max(2, int(left / self.cost("step2")))
                say(f"step2: {self.plan['step2']} epochs")
        if status is None:
            self.save(complete=True)
            say(f"complete: bring {self.options.out}/training.json and weights_* back")
        else:
            self.save()
        return status or 0

    def _run_step(self) -> int | None:
        """Train a step to its end; an exit status if that is not reached."""
        step, total = self.step, self.plan[self.step]
        rows, saved = self.history[step], time.monotonic()
        while len(rows) < total:
            if self.stopped:
                return 143
            # Time epochs without a test: most are.
            if min((row["seconds"] for row in rows[-3:]), default=0) > self.left():
                say(f"{step} ends after {len(rows)} of {total} epochs: the time is up")
                return 3
            self._epoch(step, total)
            self._check(rows)
            if time.monotonic() - saved > self.options.save_every:
                self.save()
                saved = time.monotonic()
        return None

    def _epoch(self, step: str, total: int) -> None:
        rows, began = self.history[step], time.monotonic()
        rate = learning_rate(self.recipe, len(rows), total)
        row = {"epoch": len(rows) + 1, "learning_rate": rate}
        row |= self.network.epoch(step, self.number, rate)
        self.number += 1
        last = row["epoch"] == total
        if last or row["epoch"] == 1 or row["epoch"] % self.options.test_every == 0:
            row |= self.network.test(step)
            if row["test_top1"] > self.best_top1 and step == "step1":
                self.best_top1 = row["test_top1"]
                self.best = self.network.weights()
        row["seconds"] = time.monotonic() - began
        rows.append(row)
        test = f", test {row['test_top1']:.2f} %" if "test_top1" in row else ""
        say(
            f"{step} {row['epoch']}/{total}: loss {row['loss']:.4f}, top-1 "
            f"{row['top1']:.2f} %{test}, rate {rate:.2e}, {row['seconds']:.2f} s"
        )

    def _check(self, rows: list) -> None:
        row, fix = rows[-1], "Fix: a smaller learning_rate or clip_factor; export again"
        if not math.isfinite(row["loss"]):
            raise Failed(
                f"The loss must stay finite. Received: {row['loss']} in {self.step}, "
                f"epoch {row['epoch']}; the last save is kept. {fix}."
            )
        steps = len(rows) * self.network.description["steps"]
        if learns_nothing(self.network.labels, row["top1"], len(rows), steps):
            raise Failed(
                "The network must learn more than the most frequent class. Received: "
                f"top-1 {row['top1']:.2f} % in {self.step} after {len(rows)} epochs. "
                f"{fix}."
            )

    def save(self, complete: bool = False) -> None:
        """Write weights and state; last `training.json`, which names them."""
        began, out = time.monotonic(), self.options.out
        weights = self.network.weights()
        if self.options.float16:
            weights = {name: half(array) for name, array in weights.items()}
        stem = f"{self.step}_{len(self.history[self.step]):05d}"
        most = 1e6 * self.options.piece_mb
        pieces = write_pieces(out, f"weights_{stem}", weights, most, np.savez)
        state = {"files": []}
        if not complete:
            arrays = {k: np.asarray(v) for k, v in self.network.state.items()}
            arrays |= {f"best/{name}": array for name, array in self.best.items()}
            state = write_pieces(self.state, f"state_{stem}", arrays, 1e9, np.savez)
        kept = {name: getattr(self, name) for name in self._KEPT}
        content = {"format": FORMAT, "id": self.network.description["id"], **kept}
        content |= {"versions": self.network.versions}
        content |= {"weights": pieces, "state": state}
        write_json(out / "training.json", content)
        named = {file["name"] for part in (pieces, state) for file in part["files"]}
        for old in (*out.glob("weights_*.npz"), *self.state.glob("state_*.npz")):
            if old.name not in named and _OWN_NAME.fullmatch(old.name):
                old.unlink()
        self.saving = max(self.saving, time.monotonic() - began)

    def resume(self, saved: dict) -> None:
        """Go on from a save."""
        if self.given(saved["plan"]) != saved["plan"]:
            raise BadInput(
                f"A resumed training must keep its epochs, {saved['plan']}. Received: "
                f"--epochs {self.options.epochs}. Fix: leave --epochs out."
            )
        state = read_pieces(self.state, saved["state"])
        self.best = {
            k.removeprefix("best/"): state.pop(k)
            for k in list(state)
            if k.startswith("best/")
        }
        self.network.restore(state)
        for name in self._KEPT:
            setattr(self, name, saved[name])


def half(array: np.ndarray) -> np.ndarray:
    """Floating-point numbers as float16."""
    return array.astype(np.float16) if array.dtype.kind == "f" else array


def say(line: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:7.1f}] {line}", flush=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise BadInput(f"{message}. Fix: see run.py --help.")


def _at_least(least: float, kind: type):
    def parse(text: str):
        number = kind(text)
        if not number >= least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, not {text}")
        return number

    return parse


def parse(arguments: list | None) -> argparse.Namespace:
    """Read the command line."""
    parser = _Parser(prog="run.py", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for what is trained")
    add("--seconds", type=_at_least(1, float), default=math.inf, help="time for all")
    add("--epochs", type=_at_least(1, int), nargs="+", metavar="N", help="of each step")
    add("--resume", action="store_true", help="go on with what is in --out")
    add("--test-every", type=_at_least(1, int), default=10, metavar="EPOCHS")
    add("--save-every", type=_at_least(0, float), default=60.0, metavar="SECONDS")
    add("--piece-mb", type=_at_least(0.05, float), default=15.0, metavar="MB")
    add("--float16", action="store_true", help="write the weights as float16")
    add("--state", type=Path, help="folder for --resume (OUT/state)")
    add("--folder", type=Path, default=Path(__file__).parent, help="what was exported")
    add("--platform", help="of jax: cpu, cuda, tpu; the best one if left out")
    options = parser.parse_args(arguments)
    if options.epochs and len(options.epochs) > 2:
        parser.error(f"argument --epochs: one or two numbers, not {options.epochs}")
    return options


def read_saved(options: argparse.Namespace) -> dict | None:
    """What `--out` holds, if there is something to go on with."""
    record = options.out / "training.json"
    if not record.exists():
        return None
    if not options.resume:
        raise BadInput(
            f"A training needs a folder of its own. Received: {options.out}, which "
            "holds one. Fix: choose another --out, or --resume."
        )
    return read_json(record, "What --resume goes on with", "choose another --out")


def train(options: argparse.Namespace) -> int:
    """Train, or go on; the exit status."""
    saved, exported = read_saved(options), read_export(options.folder)
    if saved and saved["id"] != exported[0]["id"]:
        raise BadInput(
            f"--resume must go on with the same export. Received: {options.out}, "
            "which belongs to another. Fix: choose another --out."
        )
    if saved and len(saved["history"]["step2"]) == saved["plan"]["step2"]:
        say(f"the training in {options.out} is complete")
        return 0
    network = Network(options.folder, exported, Device(options.platform))
    programs = network.description["programs"].items()
    kinds = "; ".join(f"{name} {entry['convolutions']}" for name, entry in programs)
    versions = network.versions
    say(f"jax {versions['jax']}, {versions['device']}; convolutions: {kinds}")
    run = Run(network, options)
    # Saved before its first epoch, it has no plan yet.
    if saved and saved["number"]:
        run.resume(saved)
    else:
        run.start()
    return run.run()


def main(arguments: list | None = None) -> int:
    """Run the command line; what the user can put right is one line."""
    try:
        return train(parse(arguments))
    except BadInput as error:
        message, status = str(error), error.status
    except OSError as error:
        message, status = f"{error}. Fix: check path, permissions and space.", 2
    print(f"run.py: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
