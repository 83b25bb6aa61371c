"""A progress bar over a whole run."""

import sys
import time

import tensorflow as tf
from tqdm import tqdm

from larq_nobn._compiler import silence_compiler


class Progress(tf.keras.callbacks.Callback):
    """Show images per second, time left and the running accuracy.

    Args:
        total: Images of the whole run.
        batch_size: Images per batch.
        verbose: Whether to show anything.

    Attributes:
        where: What is running now, shown in front.
    """

    def __init__(self, total: int, batch_size: int, verbose: bool = True):
        super().__init__()
        self.where = ""
        self.batch_size = batch_size
        self._compiled: tf.keras.Model | None = None
        self._began: float | None = None
        if verbose:
            silence_compiler()
        # A log file gets a line a minute, a terminal a moving bar. The time left is by
        # the speed so far: by the last seconds', each test would make it days.
        self.bar = tqdm(
            total=total,
            unit="img",
            unit_scale=True,
            smoothing=0,
            disable=not verbose,
            dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 60,
        )

    def start_at(self, images: int) -> None:
        """Continue a resumed run; what was done before counts for no speed."""
        self.bar.initial = images
        self.bar.n = images
        self.bar.last_print_n = images
        self.bar.refresh()

    def on_train_begin(self, logs=None):
        """Show what is running."""
        self.bar.set_description(self.where, refresh=False)

    def on_train_batch_begin(self, batch, logs=None):
        """Notice the first batch of a network, for which it is compiled."""
        if self.model is not self._compiled:
            self._compiled, self._began = self.model, self._now()

    def on_train_batch_end(self, batch, logs=None):
        """Advance by a batch."""
        if self._began is not None:
            # Neither its time nor its images count for the speed.
            self._skip(self._now() - self._began)
            self._began = None
            return
        self.bar.set_postfix(
            loss=f"{logs['loss']:.3f}", top1=f"{logs['accuracy']:.1%}", refresh=False
        )
        self.bar.update(self.batch_size)

    def _skip(self, seconds: float) -> None:
        bar = self.bar
        if bar.disable:
            return
        bar.start_t += seconds
        bar.last_print_t = self._now()
        bar.n += self.batch_size
        bar.last_print_n = bar.n
        bar.initial += self.batch_size

    @staticmethod
    def _now() -> float:
        return time.time()

    def close(self) -> None:
        """End the bar."""
        self.bar.close()
