"""Every fast function is the plain one: value and all gradients, in every dtype."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from larq_nobn import math, ops
from larq_nobn.ops.fusion import Recompute
from larq_nobn.ops.seam import is_fast

DTYPES = {"float64": 1e-11, "float32": 1e-4, "bfloat16": 0.03, "float16": 0.01}
MAP, KERNEL, CHANNEL = (4, 3, 5, 6), (3, 3, 4, 6), (6,)
GAIN = (1, 1, 1, 6)


def _residual_input(activation, factor, bias):
    """Of a flat list of tensors: x, the activation's, the bias."""

    def call(implementation, x, *rest):
        weights, shift = rest[:activation], rest[activation:]
        return implementation(
            x, weights, factor, shift[0] if bias else None, math.approx_sign_gradient
        )

    return call


def _with(*arguments, **kwargs):
    return lambda implementation, *tensors: implementation(
        *tensors, *arguments, **kwargs
    )


# Name, shapes of the tensors, and how the function is called with them.
CASES = {
    "standardization": ("scaled_weight_standardization", (KERNEL,), _with()),
    "standardization, gamma and eps": (
        "scaled_weight_standardization",
        (KERNEL,),
        _with(1.7, 1e-2),
    ),
    "standardization, depthwise": (
        "scaled_weight_standardization",
        (KERNEL,),
        _with(1.0, 1e-5, (0, 1)),
    ),
    "standardization, dense": ("scaled_weight_standardization", ((7, 5),), _with()),
    "scale_channels": ("scale_channels", (KERNEL, GAIN), _with()),
    "scaled_sign": ("scaled_sign", (KERNEL,), _with()),
    "scaled_sign, no clipping": ("scaled_sign", (KERNEL,), _with(None)),
    "binary_ws_kernel": ("binary_ws_kernel", (KERNEL, GAIN), _with()),
    "binary_ws_kernel, arguments": (
        "binary_ws_kernel",
        (KERNEL, GAIN),
        _with(1.7, 1e-2, 0.1),
    ),
    "shift_channels": ("shift_channels", (MAP, CHANNEL), _with()),
    "multiply": ("multiply", (MAP,), _with(0.3)),
    "rprelu": ("rprelu", (MAP, CHANNEL, CHANNEL, CHANNEL), _with()),
    "scaled_add": ("scaled_add", (MAP, MAP), _with(0.2)),
    "scaled_add, alpha 1": ("scaled_add", (MAP, MAP), _with(1.0)),
    "binarize": ("binarize", (MAP,), _with(math.approx_sign_gradient)),
    "binarize, sigmoid": ("binarize", (MAP,), _with(math.sigmoid_sign_gradient, 3.0)),
    **{
        f"residual_input {activation} {factor} {bias}": (
            "residual_input",
            (MAP, *[CHANNEL] * activation, *[CHANNEL] * bias),
            _residual_input(activation, factor, bias),
        )
        for activation in (0, 3)
        for factor in (1.0, -0.7)
        for bias in (0, 1)
    },
    "conv2d": ("conv2d", (MAP, (3, 3, 6, 4)), _with((1, 1), "SAME")),
    "conv2d, strides": ("conv2d", (MAP, (3, 3, 6, 4)), _with((2, 2), "VALID")),
    "conv2d, tiles": (
        "conv2d",
        ((2, 3, 4, 256), (3, 3, 256, 256)),
        _with((1, 1), "SAME"),
    ),
    "agc_scale": ("agc_scale", (KERNEL, KERNEL), _with(0.9, 1e-3)),
    "agc_scale of a vector": ("agc_scale", (CHANNEL, CHANNEL), _with(0.5, 1e-3)),
    **{
        f"agc_scale by {units}": (
            "agc_scale",
            (KERNEL, KERNEL),
            _with(0.9, 1e-3, units),
        )
        for units in ((3,), (2, -1), (2,), (0, 3), (0, 1, 2, 3), ())
    },
}


def test_every_fast_function_has_a_case():
    fast = {name for name in vars(ops) if hasattr(getattr(ops, name), "fast")}
    assert fast | {"conv2d"} == {name for name, *_ in CASES.values()}


def _tensors(shapes, dtype):
    rng = np.random.default_rng(0)
    return [tf.cast(rng.normal(size=shape), dtype) for shape in shapes]


def _values_and_gradients(mode, dtype):
    """Of all cases, in one graph."""
    tensors = {case: _tensors(shapes, dtype) for case, (_, shapes, _) in CASES.items()}

    @tf.function
    def compute():
        return {
            case: _of_case(name, call, tensors[case])
            for case, (name, _, call) in CASES.items()
        }

    with ops.using(mode):
        return compute()


def _of_case(name, call, tensors):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        values = tf.nest.flatten(call(getattr(ops, name), *tensors))
        # Another cotangent for each element.
        loss = sum(tf.reduce_sum(tf.cast(y, tf.float64) * _cosines(y)) for y in values)
    if name == "agc_scale":  # Gradients are clipped, not differentiated.
        return values
    return [*values, *tape.gradient(loss, tensors)]


def _cosines(y):
    return tf.cos(tf.reshape(tf.range(tf.size(y), dtype=tf.float64), y.shape))


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param("float64", marks=pytest.mark.slow),
        "float32",
        "bfloat16",
        pytest.param("float16", marks=pytest.mark.slow),
    ],
)
def test_fast_is_plain(dtype):
    plain, fast = (_values_and_gradients(mode, dtype) for mode in ("plain", "cpu"))
    for case in CASES:
        for i, (a, b) in enumerate(zip(plain[case], fast[case], strict=True)):
            assert a.dtype == b.dtype, (case, i)
            a, b = (tf.cast(x, tf.float64).numpy() for x in (a, b))
            scale = np.max(np.abs(a)) or 1.0
            np.testing.assert_allclose(
                b / scale, a / scale, atol=DTYPES[dtype], rtol=0, err_msg=f"{case} {i}"
            )


@pytest.mark.slow
def test_accelerators_get_the_plain_operators():
    results = [_values_and_gradients(m, "float32") for m in ("plain", "accelerator")]
    for a, b in zip(*map(tf.nest.flatten, results), strict=True):
        np.testing.assert_array_equal(a, b)


def test_recomputed_inputs_give_the_same_gradients():
    x, kernel = _tensors((MAP, (3, 3, 6, 4)), "float64")

    def step(recompute):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            how = Recompute(tf.identity, (x,)) if recompute else None
            y = ops.conv2d(x, kernel, (1, 1), "SAME", how)
            loss = tf.reduce_sum(y * y)
        return tape.gradient(loss, [x, kernel])

    for a, b in zip(*(tf.function(step)(flag) for flag in (True, False)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def _second_order(mode):
    (x,) = _tensors((MAP,), "float64")
    weights = _tensors([CHANNEL] * 3, "float64")

    # AutoGraph would give the error a type of its own.
    @tf.function(autograph=False)
    def compute(x):
        with ops.using(mode), tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = ops.rprelu(ops.sigmoid_sign(x) * x, *weights)
                loss = tf.reduce_sum(y * y)
            penalty = tf.reduce_sum(tf.square(inner.gradient(loss, x)))
        return outer.gradient(penalty, x)

    return compute(x), x, weights


def test_plain_functions_have_gradients_of_gradients():
    result, x, (bias_in, slope, bias_out) = _second_order("plain")
    rng = np.random.default_rng(1)
    direction = tf.constant(rng.normal(size=MAP))

    def gradient(x):
        """Of the loss, with the surrogate's derivative written out."""
        s = tf.sigmoid(3 * x)
        sign = math.sign(x)
        z = sign * x + bias_in
        y = tf.where(z >= 0, z, slope * z) + bias_out
        return 2 * y * tf.where(z >= 0, 1.0, slope) * (sign + x * 6 * s * (1 - s))

    def penalty(x):
        return float(tf.reduce_sum(tf.square(gradient(x))))

    # The derivative of the sign in the gradient is the surrogate's, not zero: what is
    # compared is the gradient with the sign's factor held, plus its surrogate's part.
    with tf.GradientTape() as tape:
        tape.watch(x)
        s = tf.sigmoid(3 * x)
        sign = math.sigmoid_sign(x)
        z = sign * x + bias_in
        y = tf.where(z >= 0, z, slope * z) + bias_out
        first = 2 * y * tf.where(z >= 0, 1.0, slope) * (sign + x * 6 * s * (1 - s))
        total = tf.reduce_sum(tf.square(first))
    assert penalty(x + 1e-3 * direction) != penalty(x)
    np.testing.assert_allclose(result, tape.gradient(total, x), rtol=1e-9)


def test_fast_functions_refuse_gradients_of_gradients():
    with pytest.raises(LookupError, match="first derivatives only.*using\\('plain'\\)"):
        _second_order("cpu")


def test_using_holds_inside_and_is_undone():
    modes = [ops.mode()]
    with ops.using("plain"):
        modes.append(ops.mode())
        with contextlib.suppress(ZeroDivisionError), ops.using("accelerator"):
            modes.append(ops.mode())
            _ = 1 / 0
        modes.append(ops.mode())
    assert [*modes, ops.mode()] == ["cpu", "plain", "accelerator", "plain", "cpu"]


def test_modes_must_be_known(monkeypatch):
    with pytest.raises(ValueError, match="`mode` must be one of .*Received: .*'gpu'"):
        ops.using("gpu").__enter__()


def test_only_graphs_are_fast():
    assert not is_fast()
    found = []
    tf.function(lambda: found.append(is_fast()))()
    with ops.using("plain"):
        tf.function(lambda: found.append(is_fast()))()
    assert found == [True, False]
