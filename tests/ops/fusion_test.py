"""Functions that are compiled once, and sums over maps."""

import numpy as np
import pytest
import tensorflow as tf

from larq_nobn.ops import rprelu
from larq_nobn.ops.fusion import channel_sum, fused_sums

rng = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_sums_over_many_values(dtype):
    """A sum in half precision stands still once it is 256 times its summands."""
    x = tf.ones((40_000, 3), dtype) * tf.constant([1.0, 0.5, -0.25], dtype)
    expected = 40_000 * np.array([1.0, 0.5, -0.25])
    result = tf.cast(channel_sum(x), tf.float64)
    assert channel_sum(x).dtype == dtype
    np.testing.assert_allclose(result, expected, rtol=2**-8)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("batch", [3, None])
@pytest.mark.parametrize("size", [(), (1, 1), (2, 1), (3, 5), (4, 6)])
def test_fused_sums(size, batch, dtype):
    """Also where the rows do not make four parts, and where there are none."""

    def products(x, b, y):
        return [(x - b) * y, x + y, x * y]

    function = fused_sums(products)
    shape = (batch, *size, 7)
    call = tf.function(function)
    call = call.get_concrete_function(
        *[tf.TensorSpec(s, dtype) for s in (shape, (7,), shape)]
    )
    rng = np.random.default_rng(0)
    for rows in (3,) if batch else (3, 1, 0):
        x, y = tf.constant(rng.integers(-4, 5, (2, rows, *size, 7)), dtype)
        b = tf.constant(rng.integers(-4, 5, 7), dtype)
        for results in (call(x, b, y), function(x, b, y)):
            for result, values in zip(results, products(x, b, y), strict=True):
                assert result.dtype == ("float64" if dtype == "float64" else "float32")
                expected = np.sum(values, axis=tuple(range(len(size) + 1)))
                np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_maps_of_all_sizes_share_functions(dtype):
    """A network's graph holds them once, not once per layer, and knows its shapes."""

    def results(*maps):
        with tf.GradientTape() as tape:
            operands = []
            for x in maps:
                numbers = tf.cast(tf.linspace(-1.0, 1.0, x.shape[-1]), dtype)
                operands.append((x, numbers, 0.5 * numbers, -numbers))
            tape.watch(operands)
            outputs = [rprelu(*some) for some in operands]
        return outputs, tape.gradient(outputs, operands)

    def traced(*sizes):
        specs = [tf.TensorSpec(size, dtype) for size in sizes]
        return tf.function(results).get_concrete_function(*specs)

    sizes = [(2, 8, 8, 3), (2, 4, 4, 5), (None, 4, 4, 7), (2, 6)]
    call = traced(*sizes)
    outputs, gradients = call.structured_outputs
    assert [list(y.shape) for y in outputs] == [list(size) for size in sizes]
    assert [list(dx.shape) for dx, *_ in gradients] == [list(size) for size in sizes]
    assert all(
        list(db.shape) == [size[-1]]
        for (_, *dbs), size in zip(gradients, sizes, strict=True)
        for db in dbs
    )

    def functions(call):
        return len(call.graph.as_graph_def().library.function)

    assert functions(traced(*sizes[:3])) == functions(traced(sizes[0]))
    maps = [tf.cast(rng.normal(size=[n or 2 for n in size]), dtype) for size in sizes]
    tolerance = 1e-5 if dtype == "float32" else 0.02
    wanted = tf.nest.flatten(results(*maps))
    for actual, expected in zip(tf.nest.flatten(call(*maps)), wanted, strict=True):
        actual, expected = (tf.cast(x, tf.float32) for x in (actual, expected))
        np.testing.assert_allclose(actual, expected, tolerance, tolerance)
