"""Compilers and converters without their log lines, written by C++."""

import contextlib
import functools
import os
import sys
from collections.abc import Iterator

import tensorflow as tf


@functools.cache
def silence_compiler() -> None:
    """Let XLA say unheard what it says once, about the first program it compiles.

    No setting keeps these lines back: they come from a log that is never initialized.
    """
    with stderr_dropped(), tf.device("CPU"):
        tf.function(lambda x: x + 1, jit_compile=True)(tf.zeros([]))


@contextlib.contextmanager
def stderr_dropped() -> Iterator[None]:
    """Keep what C++ writes, past Python's `sys.stderr`, off the standard error."""
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (AttributeError, OSError, ValueError):  # There is none.
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
