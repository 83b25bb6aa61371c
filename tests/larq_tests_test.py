"""QuantConv2D in the place of Larq's: the same constructor, and Larq's own tests."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import larq as lq
import pytest
import tensorflow as tf

from larq_nobn.layers import QuantConv2D, ScaledWSConv2D


def _parameters(cls):
    parameters = inspect.signature(cls).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters]


def test_the_constructor_is_larqs():
    assert _parameters(QuantConv2D) == _parameters(lq.layers.QuantConv2D)


def test_the_standardized_one_begins_as_keras_does():
    *keras, _ = _parameters(tf.keras.layers.Conv2D)
    ours = _parameters(ScaledWSConv2D)[: len(keras)]
    differing = [b for a, b in zip(keras, ours, strict=True) if a != b]
    assert [(name, default) for name, _, default in differing] == [("use_bias", False)]
    rest = _parameters(ScaledWSConv2D)[len(keras) : -1]
    assert {kind for _, kind, _ in rest} == {inspect.Parameter.KEYWORD_ONLY}


def test_positional_arguments_arrive():
    layer = ScaledWSConv2D(4, 3, 2, "same", None, 1, 2, "relu", True, "zeros")
    assert (layer.strides, layer.padding, layer.groups) == ((2, 2), "same", 2)
    assert (layer.activation, layer.use_bias) == (tf.keras.activations.relu, True)
    assert isinstance(layer.kernel_initializer, tf.keras.initializers.Zeros)
    layer = QuantConv2D(4, 3, 2, "same", 1.0)
    assert (layer.strides, layer.padding, layer.pad_values) == ((2, 2), "same", 1.0)


@pytest.mark.slow
def test_larqs_own_tests_pass(tmp_path):
    larq = Path(lq.__file__).parent
    names = ("layers", "models", "context", "callbacks", "constraints")
    # What summaries are compared with is not in Larq's package.
    options = "-q -p no:cacheprovider -p drop_in -W ignore -k".split()
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "not summary"]
        + ["-c", os.devnull, f"--rootdir={larq}"]
        + [str(larq / f"{name}_test.py") for name in names],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 90
