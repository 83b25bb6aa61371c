"""A recipe of a few seconds, run by tests in processes of their own.

`KILL_AT` in the environment kills the process without warning: `batch:N` before the
N-th batch, `write:N` when half of the N-th file is written. `DEVICES` makes so many
devices of the CPU.
"""

import os
import signal

import tensorflow as tf

from larq_nobn.networks import FAMILIES, ResNet
from larq_nobn.training import Recipe, progress

FAMILIES["tiny"] = ResNet((1, 1), width=8)
RECIPE = Recipe(
    name="tiny_recipe",
    dataset="digits",
    model="tiny",
    stem="cifar",
    epochs=3,
    batch_size=32,
    learning_rate=2e-3,
    schedule="cosine",
    ema=0.9,
    limit=160,
)

if "DEVICES" in os.environ:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * int(os.environ["DEVICES"]),
    )


def _kill_on_call(count: int, function):
    calls = 0

    def wrapper(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count:
            if function is os.fsync:
                os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return wrapper


if "KILL_AT" in os.environ:
    place, number = os.environ["KILL_AT"].split(":")
    target, name = {
        "batch": (progress.Progress, "on_train_batch_end"),
        "write": (os, "fsync"),
    }[place]
    setattr(target, name, _kill_on_call(int(number), getattr(target, name)))
