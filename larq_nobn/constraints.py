"""Weight standardization as a Keras constraint, for layers that are not ours."""

from collections.abc import Sequence

import larq as lq
import tensorflow as tf

from larq_nobn._errors import check_number
from larq_nobn._registration import register
from larq_nobn.ops import scaled_weight_standardization


@lq.utils.register_alias("scaled_ws")
@register
class ScaledWeightStandardization(tf.keras.constraints.Constraint):
    """Project a kernel onto the standardized ones after every update.

    Works on any Larq or Keras layer, also by the string `"scaled_ws"`. Which to use:

    - `larq_nobn.layers.ScaledWSConv2D` standardizes inside the forward pass, as the
      paper does (arXiv 2104.08215, Section 3.2): gradients flow through the
      standardization and a gain is learned. Take it for a new network.
    - This constraint changes the stored weights after the update and leaves the forward
      pass alone: no gradient through the standardization, no gain, nothing to convert
      at inference. Take it to keep an existing layer (`QuantDense`, a depthwise
      convolution, a layer of another library) from drifting.

    Args:
        gamma: Factor on the standardized kernel.
        eps: Added to the standard deviation.
        axis: The axes that make up one unit; all but the last by default, `(0, 1)` for
            a depthwise kernel.

    Example:
        >>> lq.layers.QuantDense(10, kernel_constraint="scaled_ws")
    """

    def __init__(
        self,
        gamma: float = 1.0,
        eps: float = 1e-5,
        axis: Sequence[int] | None = None,
    ):
        check_gamma_and_eps(gamma, eps)
        self.gamma = gamma
        self.eps = eps
        self.axis = None if axis is None else list(axis)

    def __call__(self, w: tf.Tensor) -> tf.Tensor:
        """Return the standardized kernel; shape and dtype stay."""
        return scaled_weight_standardization(
            tf.convert_to_tensor(w), self.gamma, self.eps, self.axis
        )

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return {"gamma": self.gamma, "eps": self.eps, "axis": self.axis}


def check_gamma_and_eps(gamma: float, eps: float) -> None:
    """Check the two numbers of scaled weight standardization.

    Raises:
        ValueError: If `gamma` is not positive or `eps` is negative.
    """
    check_number("gamma", gamma, "use 1.0 behind a sign")
    check_number("eps", eps, "1e-5 is the paper's choice", zero=True)
