"""The functions of `larq_nobn.math`, fast on CPUs: what the layers call.

`using` says which implementation computes; nobody else asks which machine this is.
"""

from larq_nobn.math import round_straight_through, sign
from larq_nobn.ops.activations import (
    approx_sign,
    binarize,
    multiply,
    residual_input,
    rprelu,
    scaled_add,
    shift_channels,
    sigmoid_sign,
    signs_of,
)
from larq_nobn.ops.clipping import agc_scale
from larq_nobn.ops.convolution import conv2d
from larq_nobn.ops.kernels import (
    binary_ws_kernel,
    scale_channels,
    scaled_sign,
    scaled_weight_standardization,
)
from larq_nobn.ops.seam import is_fast, mode, using

__all__ = [
    "agc_scale",
    "approx_sign",
    "binarize",
    "binary_ws_kernel",
    "conv2d",
    "is_fast",
    "mode",
    "multiply",
    "residual_input",
    "round_straight_through",
    "rprelu",
    "scale_channels",
    "scaled_add",
    "scaled_sign",
    "scaled_weight_standardization",
    "shift_channels",
    "sigmoid_sign",
    "sign",
    "signs_of",
    "using",
]
