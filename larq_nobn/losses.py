"""Losses for training with a teacher."""

import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn._registration import register


def distribution_loss(
    teacher: tf.Tensor, student: tf.Tensor, from_logits: bool = True
) -> tf.Tensor:
    r"""Cross-entropy between a teacher's and a student's class distribution.

    ReActNet (arXiv 2003.03488), equation 5, up to the teacher's entropy, which is
    constant in the student:

    \\[ L = -\sum_k p_k^{teacher} \log p_k^{student} \\]

    Args:
        teacher: Tensor of shape `(batch, classes)`.
        student: Tensor of shape `(batch, classes)`.
        from_logits: Whether both are logits; probabilities otherwise.

    Returns:
        Tensor of shape `(batch,)`.
    """
    if from_logits:
        teacher = tf.nn.softmax(teacher)
        log_student = tf.nn.log_softmax(student)
    else:
        log_student = tf.math.log(tf.maximum(student, tf.keras.backend.epsilon()))
    return -tf.reduce_sum(teacher * log_student, axis=-1)


@register
class DistributionLoss(tf.keras.losses.Loss):
    """Match the class distribution of a frozen teacher.

    `y_true` is the teacher's output, `y_pred` the student's, both of shape
    `(batch, classes)`. See `larq_nobn.losses.distribution_loss` for the formula.

    Args:
        from_logits: Whether both are logits. Models of the zoo give logits with
            `classifier_activation=None`.
        reduction: As in every Keras loss.
        name: Name of the loss.

    Raises:
        ValueError: On call, if the two have different numbers of classes.
    """

    def __init__(
        self,
        from_logits: bool = True,
        reduction: str = "sum_over_batch_size",
        name: str = "distribution_loss",
    ):
        super().__init__(reduction=reduction, name=name)
        self.from_logits = from_logits

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Return the loss per sample, of shape `(batch,)`."""
        y_pred = tf.convert_to_tensor(y_pred)
        y_true = tf.cast(y_true, y_pred.dtype)
        if y_true.shape.rank != 2 or not y_true.shape.is_compatible_with(y_pred.shape):
            raise UserError(
                "The teacher's and the student's outputs must both have the shape "
                "(batch, classes)",
                got=f"teacher {y_true.shape}, student {y_pred.shape}",
                fix="use a teacher that was trained on the same classes, and pass its "
                "logits as y_true",
            )
        return distribution_loss(y_true, y_pred, self.from_logits)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "from_logits": self.from_logits}
