"""Keras callbacks for watching a training."""

import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn.optimizers import AdaptiveGradientClipping


class ClippingReport(tf.keras.callbacks.Callback):
    """Add to each epoch's logs how much adaptive gradient clipping clipped, per layer.

    The entry `agc/<layer>` is the fraction of the layer's units whose gradients were
    clipped, averaged over the epoch's steps. Callbacks behind it in the list see the
    entries: put it before `CSVLogger` and `TensorBoard`; `History` always has them.

    Raises:
        UserError: When training begins, if the model's optimizer neither is nor
            contains an `AdaptiveGradientClipping(..., track_clipping=True)`.

    Example:
        >>> optimizer = AdaptiveGradientClipping("adam", track_clipping=True)
        >>> model.compile(optimizer, "sparse_categorical_crossentropy")
        >>> model.fit(images, labels, callbacks=[
        ...     ClippingReport(), tf.keras.callbacks.TensorBoard("logs")])
    """

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Find the optimizer, and start counting anew."""
        self._optimizer = _clipping_optimizer(self.model.optimizer)
        self._optimizer.clipping_report(reset=True)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Add the entries to the logs."""
        report = self._optimizer.layer_clipping_report(self.model, reset=True)
        if logs is not None:
            logs.update({f"agc/{name}": value for name, value in report.items()})


def _clipping_optimizer(optimizer) -> AdaptiveGradientClipping:
    """The clipping optimizer inside of a LossScaleOptimizer and other wrappers."""
    outer = optimizer
    while not isinstance(optimizer, AdaptiveGradientClipping) and optimizer is not None:
        optimizer = getattr(optimizer, "inner_optimizer", None)
    if optimizer is None or not optimizer.track_clipping:
        raise UserError(
            "ClippingReport needs a model compiled with an AdaptiveGradientClipping "
            "that counts",
            got=type(outer).__name__
            if optimizer is None
            else f"{type(optimizer).__name__}(track_clipping=False)",
            fix="AdaptiveGradientClipping(optimizer, track_clipping=True)",
        )
    return optimizer
