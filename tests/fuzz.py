"""Damaged and hostile files against whatever reads files.

    python tests/fuzz.py --seconds 600

prints, for each kind of file, how many inputs were tried, what was refused by a
`UserError` and what was accepted, exceptions of other kinds (there must be none) and
silent wrong results: inputs that were taken for something else than what was written.
`fuzz_test.py` runs the first inputs of each.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import larq_nobn  # noqa: F401  # isort: skip  (first: it selects Keras 2)
import numpy as np
import tensorflow as tf

from larq_nobn import UserError, zoo
from larq_nobn._tables import format_table
from larq_nobn.networks import FAMILIES, ResNet
from larq_nobn.saving import load_model
from larq_nobn.training import Recipe, engine, parse_settings
from larq_nobn.training.checkpoint import Checkpoint, load_latest, save_checkpoint
from larq_nobn.training.folder import RunFolder
from larq_nobn.weights.bundle import load_weights, write_bundle
from larq_nobn.weights.card import Card, parse_card
from larq_nobn.weights.files import load_index
from larq_nobn.weights.loading import load_file
from larq_nobn.weights.sources import sources
from larq_nobn.weights.torch.reading import read_checkpoint
from larq_nobn.weights.transfer import named_weights

DATA = Path(__file__).parent / "data"
HEADER = ("kind", "inputs", "refused", "accepted", "foreign", "silently wrong")
# What is put in place of values, and into them.
PIECES = [
    *(b"null", b"[]", b"{}", b"-1", b"0", b"1e400", b"NaN", b"true", b'""', b"1.5"),
    *(b"9" * 400, b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"\0", b"\xff\xfe"),
    *(b"\x1b[2J", b"..", b"/etc/passwd", b"\\u0000", b"\xf0\x9f\x98\x80", b"x" * 9999),
]
SETTINGS = {"dataset": "digits", "model": "fuzz", "stem": "cifar", "name": "fuzz"}


def changed(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes that are other, more or less."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, length = (int(rng.integers(len(data) + 1)), int(rng.integers(1, 40)))
        match rng.integers(6):
            case 0 | 1 if at < len(data):
                data[at] ^= 1 << int(rng.integers(8))
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = PIECES[rng.integers(len(PIECES))]
            case 4:
                data[at : at + length] = PIECES[rng.integers(len(PIECES))]
            case 5 if rng.integers(4) == 0:
                del data[at:]
    return bytes(data)


class Fuzzer:
    """The kinds of files: for each a good one, and a function that reads one.

    The function returns whether what it read is what was written.
    """

    def __init__(self, folder: Path):
        FAMILIES["fuzz"] = ResNet((1,), width=2)
        self.folder = folder
        self.model = zoo.create_model(
            "fuzz", stem="cifar", num_classes=10, input_shape=(8, 8, 1)
        )
        self.weights = self.model.get_weights()
        self.recipe = Recipe(**SETTINGS)
        self.kinds: dict[str, tuple[bytes, Callable[[bytes], bool]]] = {
            "card": (self._card(), lambda data: bool(parse_card(data, "card"))),
            "index": (
                json.dumps({"format": 1, "bundles": ["a", "b"]}).encode(),
                lambda data: isinstance(load_index(data, "index"), list),
            ),
            "checkpoint, description": self._checkpoint(".json"),
            "checkpoint, arrays": self._checkpoint(".npz"),
            "settings.json": self._run("settings.json"),
            "result.json": self._run("result.json"),
            "--set": (b"learning_rate=1e-3", self._setting),
            "LARQ_NOBN_ZOO": (b"/a:~/b,http://h:80/z,file:///c", self._sources),
            "weights.npz": self._file("w.npz", self._same_weights),
            "weights.h5": self._file("w.h5", self._some_weights),
            "model.keras as weights": self._file("m.keras", self._same_weights),
            "model.keras": self._file("n.keras", self._some_model),
            "model.h5": self._file("m.h5", self._some_model),
            "PyTorch's file": self._torch("wrapped.zip.pt"),
            "PyTorch's file, older": self._torch("wrapped.legacy.pt"),
        }

    def _card(self) -> bytes:
        network = self.recipe.network
        card = Card(
            network=network,
            dataset="digits",
            classes=tuple((str(i), str(i)) for i in range(10)),
            mean=(0.3,),
            std=(0.4,),
            metrics={"top1": 90.0},
        )
        bundle = write_bundle(self.model, card, self.folder / "bundles")
        return (bundle / "card.json").read_bytes()

    def _checkpoint(self, suffix: str):
        folder = self.folder / f"checkpoint{suffix}"
        history = {"step1": [{"epoch": 1, "loss": 0.5}], "step2": []}
        meta = dataclasses.asdict(engine._State(epoch=1, history=history))
        arrays = {"a": np.arange(9.0), "b": np.float32(1)}
        save_checkpoint(folder, 1, Checkpoint(arrays, meta))
        path = folder / f"00000001{suffix}"

        def read(data: bytes) -> bool:
            path.write_bytes(data)
            found = load_latest(folder, engine._check_state)
            if found is None:
                raise UserError("damaged")
            return found.meta == meta and all(
                np.array_equal(found.arrays[name], arrays[name]) for name in arrays
            )

        return path.read_bytes(), read

    def _run(self, name: str):
        folder = self.folder / f"run_{name}"
        result = {"recipe": "r", "top1": {}, "images_per_second": 1.0, "seconds": 1.0}
        with RunFolder(folder, self.recipe, resume=False):
            (folder / "result.json").write_text(json.dumps(result))
        path = folder / name

        def read(data: bytes) -> bool:
            path.write_bytes(data)
            with RunFolder(folder, self.recipe, resume=True) as run:
                if run.result() is None:
                    raise UserError("damaged")
            return True

        return path.read_bytes(), read

    def _setting(self, data: bytes) -> bool:
        text = data.decode(errors="surrogateescape")
        recipe = self.recipe.replace(**parse_settings([text]))
        return all(np.isfinite(recipe.learning_rate_at(e)) for e in range(2))

    def _sources(self, data: bytes) -> bool:
        text = data.replace(b"\0", b"").decode(errors="surrogateescape")
        with _environment(LARQ_NOBN_ZOO=text):
            return bool(sources([]))

    def _file(self, name: str, judge: Callable[[Path], bool]):
        path = self.folder / name
        if path.suffix == ".npz":
            np.savez(
                path, **{n: v.numpy() for n, v in named_weights(self.model).items()}
            )
        elif name.startswith("w"):
            self.model.save_weights(path)
        else:
            self.model.save(path)

        def read(data: bytes) -> bool:
            path.write_bytes(data)
            return judge(path)

        return path.read_bytes(), read

    def _torch(self, name: str):
        path = self.folder / name

        def read(data: bytes) -> bool:
            """Neither has checksums of numbers: any plain containers of these."""
            path.write_bytes(data)
            return _is_plain(read_checkpoint(path))

        return (DATA / "torch" / name).read_bytes(), read

    def _same_weights(self, path: Path) -> bool:
        """Archives have checksums: what is accepted is as it was."""
        load = load_weights if path.suffix == ".npz" else load_file
        load(self.model, path)
        return all(map(np.array_equal, self.model.get_weights(), self.weights))

    def _some_weights(self, path: Path) -> bool:
        """HDF5 has none: any finite numbers of the right shapes."""
        load_file(self.model, path)
        return all(np.isfinite(w).all() for w in self.model.get_weights())

    def _some_model(self, path: Path) -> bool:
        tf.keras.backend.clear_session()
        return isinstance(load_model(path, compile=False), tf.keras.Model)

    def run(self, kind: str, numbers: Iterator[int], seconds: float) -> Counter:
        """Try inputs until they or the time end."""
        good, read = self.kinds[kind]
        assert read(good)
        count: Counter = Counter()
        until = time.monotonic() + seconds
        for number in numbers:
            if time.monotonic() > until:
                break
            data = changed(good, np.random.default_rng([number, len(kind)]))
            count["inputs"] += 1
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    right = read(data)
                count["accepted" if right else "silently wrong"] += 1
            except UserError as error:
                is_short = len(str(error)) < 10_000
                count["refused" if is_short else "foreign"] += 1
            except Exception:  # noqa: BLE001 (to be counted)
                print(f"{kind}, input {number}:\n{traceback.format_exc(limit=-3)}")
                count["foreign"] += 1
        return count


def _is_plain(value: object) -> bool:
    match value:
        case Mapping():
            return all(map(_is_plain, (*value.keys(), *value.values())))
        case list() | tuple():
            return all(map(_is_plain, value))
        case _:
            plain = (np.ndarray, str, bytes, int, float, complex, type(None))
            return isinstance(value, plain)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main(seconds: float) -> int:
    """Print the table; the exit status says whether anything was wrong."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder))
        for kind in fuzzer.kinds:
            numbers = iter(range(10**9))
            count = fuzzer.run(kind, numbers, seconds / len(fuzzer.kinds))
            rows.append((kind, *(str(count[name]) for name in HEADER[1:])))
    print(format_table(HEADER, rows))
    return int(any(row[4:] != ("0", "0") for row in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    sys.exit(main(parser.parse_args().seconds))
