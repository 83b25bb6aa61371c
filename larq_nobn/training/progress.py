"""A progress bar over a whole run."""

import sys

import tensorflow as tf
from tqdm import tqdm


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
        # A log file gets a line a minute, a terminal a moving bar.
        self.bar = tqdm(
            total=total,
            unit="img",
            unit_scale=True,
            disable=not verbose,
            dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 60,
        )

    def start_at(self, images: int) -> None:
        """Continue a resumed run; what was done before counts for no speed."""
        self.bar.initial = images
        self.bar.n = images
        self.bar.refresh()

    def on_train_begin(self, logs=None):
        """Show what is running."""
        self.bar.set_description(self.where, refresh=False)

    def on_train_batch_end(self, batch, logs=None):
        """Advance by a batch."""
        self.bar.set_postfix(
            loss=f"{logs['loss']:.3f}", top1=f"{logs['accuracy']:.1%}", refresh=False
        )
        self.bar.update(self.batch_size)

    def close(self) -> None:
        """End the bar."""
        self.bar.close()
