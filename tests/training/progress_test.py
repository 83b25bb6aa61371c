"""The progress bar: its speed, and what must not be said in it."""

import subprocess
import sys

import pytest

from larq_nobn.training.progress import Progress

_COMPILES = """
import tensorflow as tf
from larq_nobn._compiler import silence_compiler
{silence}
print(tf.function(lambda x: x * 2, jit_compile=True)(tf.ones([3])).numpy().sum())
"""


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def progress():
    progress = Progress(1000, 10)
    clock = Clock()
    progress.bar._time = progress._now = clock
    progress.bar.start_t = progress.bar.last_print_t = 0.0
    yield progress
    progress.close()


def run_batches(progress, seconds):
    for batch, duration in enumerate(seconds):
        progress.on_train_batch_begin(batch)
        progress._now.now += duration
        progress.on_train_batch_end(batch, {"loss": 1.0, "accuracy": 0.5})


def test_compilation_counts_for_no_speed(progress):
    progress.set_model(object())
    run_batches(progress, [100, *[1] * 9])
    shown = str(progress.bar)
    assert progress.bar.n == 100
    assert "10.0img/s" in shown
    assert "<01:30" in shown
    # The second step's network is compiled too; an epoch more of it is not.
    progress.set_model(object())
    run_batches(progress, [50, *[1] * 9])
    run_batches(progress, [1] * 10)
    assert progress.bar.n == 300
    assert "<01:10" in str(progress.bar)


def test_a_pause_for_testing_makes_no_days_of_it(progress):
    progress.set_model(object())
    run_batches(progress, [100, *[1] * 9])
    progress._now.now += 60
    run_batches(progress, [1])
    # 100 images in 70 seconds, the test's with them.
    assert "<10:23" in str(progress.bar)


def test_a_resumed_run_has_its_own_speed(progress):
    progress.start_at(500)
    progress.set_model(object())
    run_batches(progress, [100, *[1] * 10])
    assert progress.bar.n == 610
    assert "<00:39" in str(progress.bar)


@pytest.mark.parametrize(
    ("silence", "is_silent"), [("silence_compiler()", True), ("", False)]
)
def test_the_compiler_says_nothing(silence, is_silent):
    done = subprocess.run(
        [sys.executable, "-c", _COMPILES.format(silence=silence)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "6.0\n"
    # TensorFlow 2.19 logs more when it is imported, before all progress.
    assert ("Compiled cluster" not in done.stderr) == is_silent
