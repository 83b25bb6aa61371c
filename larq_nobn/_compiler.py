"""XLA's compiler without its log lines, which would break a progress bar."""

import contextlib
import functools
import os
from collections.abc import Iterator

import tensorflow as tf


@functools.cache
def silence_compiler() -> None:
    """Let XLA say unheard what it says once, about the first program it compiles.

    No setting keeps these lines back: they come from a log that is never initialized.
    """
    with _stderr_dropped(), tf.device("CPU"):
        tf.function(lambda x: x + 1, jit_compile=True)(tf.zeros([]))


@contextlib.contextmanager
def _stderr_dropped() -> Iterator[None]:
    """Of C++ too, which does not write through Python's `sys.stderr`."""
    try:
        saved = os.dup(2)
    except OSError:  # There is none.
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
