"""Train an exported epoch on any PJRT device: needs jax and NumPy, no TensorFlow.

    python run.py --folder DIR --epochs 256 --seconds 540

Runs from `state.npz` in DIR, stops cleanly when the epochs are done or the time is up,
and writes `state.npz` and `history.json` as it goes; called again, it continues.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jaxlib._hlo as hlo
import numpy as np
from jaxlib import _jax, xla_client

# Otherwise jax makes 32-bit numbers of what it is given.
jax.config.update("jax_enable_x64", True)


def compile_epoch(device: jax.Device, text: str):
    """Compile HLO text for a device."""
    module = hlo.hlo_module_from_text(text)
    computation = hlo.XlaComputation(module.as_serialized_hlo_module_proto())
    stablehlo = _jax.mlir.hlo_to_stablehlo(computation.as_serialized_hlo_module_proto())
    devices = _jax.DeviceList((device,))
    options = xla_client.CompileOptions()
    return device.client.compile_and_load(stablehlo, devices, options)


class Epochs:
    """An exported epoch with its state on the device.

    Args:
        folder: The exported folder.
        platform: A platform of jax, such as `"cpu"` or `"cuda"`; `None` for the best.
    """

    def __init__(self, folder: Path, platform: str | None):
        self.folder = folder
        self.description = json.loads((folder / "description.json").read_text())
        self.device = jax.local_devices(backend=platform)[0]
        text = (folder / "epoch.hlo").read_text()
        self.executable = compile_epoch(self.device, text)
        with np.load(folder / "state.npz", allow_pickle=False) as file:
            state = {name: file[name] for name in file.files}
        self.done = int(state.pop("epochs_done", 0))
        self.state = {name: self.put(array) for name, array in state.items()}
        with np.load(folder / "data.npz", allow_pickle=False) as file:
            self.images = self.put(file["images"])
            self.labels = self.put(file["labels"])
        history = folder / "history.json"
        self.history = json.loads(history.read_text()) if self.done else []

    def put(self, array: np.ndarray):
        """Copy an array to the device."""
        return jax.device_put(np.asarray(array), self.device)

    def run(self) -> dict[str, float]:
        """Train one epoch."""
        what = self.description
        started = time.monotonic()
        epoch = self.done
        rng = np.random.default_rng([what["seed"], epoch])
        order = rng.permutation(what["examples"])
        steps = what["examples"] // what["batch_size"]
        arguments = [
            self.images,
            self.labels,
            self.put(order[: steps * what["batch_size"]].astype(np.int32)),
            self.put(np.int64(epoch)),
            self.put(np.float32(what["learning_rates"][epoch])),
        ]
        captured = what["captured"]
        parameters = arguments + [self.state[name] for name in captured]
        results = self.executable.execute(parameters)
        for result, parameter in what["aliases"]:
            self.state[captured[parameter - len(arguments)]] = results[result]
        loss, accuracy = (float(np.asarray(result)) for result in results[:2])
        self.done += 1
        row = {
            "epoch": self.done,
            "loss": loss,
            "top1": 100 * accuracy,
            "seconds": time.monotonic() - started,
        }
        self.history.append(row)
        return row

    def save(self) -> None:
        """Write state and history, each atomically; the state last."""
        temporary = self.folder / ".history.tmp"
        temporary.write_text(json.dumps(self.history, indent=2))
        temporary.replace(self.folder / "history.json")
        temporary = self.folder / ".state.tmp.npz"
        arrays = {name: np.asarray(buffer) for name, buffer in self.state.items()}
        np.savez(temporary, epochs_done=self.done, **arrays)
        temporary.replace(self.folder / "state.npz")


def main() -> None:
    """Run epochs until they are done or the time is up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--epochs", type=int, help="stop behind this many in all")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--save-every", type=int, default=10, metavar="EPOCHS")
    parser.add_argument("--platform", help="cpu, cuda, tpu, ...; by default the best")
    args = parser.parse_args()
    started = time.monotonic()
    epochs = Epochs(args.folder, args.platform)
    total = len(epochs.description["learning_rates"])
    total = min(total, args.epochs or total)
    longest = 0.0
    while epochs.done < total:
        row = epochs.run()
        print(json.dumps(row), flush=True)
        if not np.isfinite(row["loss"]):
            raise SystemExit(f"the loss became {row['loss']}; the last state is kept")
        longest = max(longest, row["seconds"])
        # Time for one more epoch and for writing.
        left = args.seconds - (time.monotonic() - started) - 2 * longest
        last = epochs.done >= total or left < 0
        if last or epochs.done % args.save_every == 0:
            epochs.save()
        if last:
            break


if __name__ == "__main__":
    main()
