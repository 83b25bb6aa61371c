"""What tests do under a Python that has jax: `python xla_device.py WHAT FOLDER ...`.

`train FOLDER OUT ...` draws the crops of `draws.npz`, if there are any, and runs
`run.py` with these arguments. `rehearse FOLDER OUT` trains in many ways on programs
that are compiled once, and prints what happened as JSON.
"""

import functools
import gzip
import importlib.util
import json
import os
import signal
import sys
import types
from pathlib import Path

import numpy as np


def load(folder):
    spec = importlib.util.spec_from_file_location("run", folder / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw(run, folder):
    """Run the program beside the export that shows what is drawn and cropped."""
    device = run.Device("cpu")
    with np.load(folder / "draws.npz") as file:
        inputs = [device.put(file[name]) for name in file.files]
    program = device.compile(gzip.decompress((folder / "draws.pb.gz").read_bytes()))
    results = [np.asarray(result) for result in program.execute(inputs)]
    np.savez(folder / "drawn.npz", *results)


def rehearse(run, folder, out):
    exported = run.read_export(folder)
    network = run.Network(folder, exported, run.Device("cpu"))
    run.Network = lambda *_: network
    epoch, test = network.epoch, network.test
    results = {}
    # An epoch takes a second, a test half of one, all else no time.
    now, killed_at = 0.0, -1

    def count(seconds, function, *arguments):
        nonlocal now, killed_at
        now += seconds
        if function == epoch:
            killed_at -= 1
            if killed_at == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        return function(*arguments)

    network.epoch = functools.partial(count, 1.0, epoch)
    network.test = functools.partial(count, 0.5, test)
    run.time = types.SimpleNamespace(monotonic=lambda: now)

    def train(name, *arguments):
        nonlocal now
        now = run.STARTED = 0.0
        arguments = ["--folder", str(folder), "--out", str(out / name), *arguments]
        try:
            status, error = run.train(run.parse(arguments)), ""
        except run.BadInput as failure:
            status, error = failure.status, str(failure)
        saved = json.loads((out / name / "training.json").read_text())
        what = {"status": status, "error": error, "seconds": now}
        what |= {key: saved[key] for key in ("plan", "history")}
        results.setdefault(name, []).append(what)

    train("whole", "--test-every", "2", "--piece-mb", "0.05")
    often = "--test-every", "2", "--save-every", "0"
    killed_at = 3
    train("stopped", *often)
    # The time is up in step 2; then it goes on to its end, which is said once more.
    train("stopped", *often, "--resume", "--seconds", "8")
    train("stopped", *often, "--resume", "--epochs", "3")
    train("stopped", *often, "--resume")
    train("stopped", "--resume")
    train("clock", "--seconds", "30", "--float16")
    train("short", "--seconds", "7")
    network.description["recipe"]["learning_rate"] = 1e30
    train("diverged")
    network.description["recipe"]["learning_rate"] = 1e-3
    network.description["steps"] = 100
    network.labels = np.zeros_like(network.labels)
    train("chance", "--epochs", "5")
    print(json.dumps(results))


def main():
    what, folder, *arguments = sys.argv[1:]
    folder = Path(folder)
    run = load(folder)
    if what == "rehearse":
        return rehearse(run, folder, Path(arguments[0]))
    if (folder / "draws.npz").exists():
        draw(run, folder)
    return run.main(["--folder", str(folder), "--platform", "cpu", *arguments])


if __name__ == "__main__":
    sys.exit(main())
