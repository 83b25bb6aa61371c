"""What can be exported is known before training, and listed in the guide."""

from pathlib import Path

import larq as lq
import pytest
import tensorflow as tf
from deploying import functional, network

from larq_nobn import UserError, deploy, layers
from larq_nobn.cli import main
from larq_nobn.deploy.coverage import layers_table

pytestmark = pytest.mark.lce

keras = tf.keras.layers
SIGN = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}


@tf.keras.utils.register_keras_serializable("tests")
class Odd(keras.Layer):
    """A layer that nobody knows."""

    def call(self, inputs):
        return inputs[:, 1:]


def failing():
    """A model of which three layers cannot be exported, one behind the other."""
    inner = functional(keras.ReLU(), Odd(name="odd"), name="inner")
    return functional(
        inner,
        keras.Conv2D(4, 3, name="fine"),
        lq.layers.QuantConv2D(4, 3, input_quantizer="ste_sign", name="half"),
        keras.GlobalMaxPooling2D(),
        keras.Reshape((1, 1, 1, 4)),
        keras.Dense(2, name="deep"),
    )


def test_all_that_cannot_be_converted_is_listed():
    found = deploy.can_convert(failing())
    assert [layer for layer, _ in found] == ["inner/odd", "half", "deep"]
    parts = ("coverage_test.Odd", "its kernel is real", "at most 3 axes")
    for (_, reason), part in zip(found, parts, strict=True):
        assert part in reason
        assert "Fix: " in reason
    allowed = deploy.can_convert(failing(), allow_float=True)
    assert [layer for layer, _ in allowed] == ["inner/odd", "deep"]
    with pytest.raises(UserError, match="layer 'odd' of class"):
        deploy.convert(failing())


def test_what_can_be_converted():
    assert deploy.can_convert(network()) == []
    assert deploy.can_convert(network(binary_weights=False), allow_float=True) == []
    assert len(deploy.can_convert(network(binary_weights=False))) == 16


def test_models_that_cannot_be_converted_as_a_whole():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    model = functional(keras.ReLU(), name="half")
    ((name, reason),) = deploy.can_convert(model)
    assert name == "half"
    assert "must compute in float32" in reason
    open_ended = functional(keras.ReLU(dtype="float32"), shape=(None, 4), name="open")
    ((name, reason),) = deploy.can_convert(open_ended)
    assert name == "open"
    assert "must take numbers of a fixed shape" in reason
    with pytest.raises(UserError, match="`target` must be one of"):
        deploy.can_convert(model, "riscv")
    with pytest.raises(UserError, match="must be a Keras model"):
        deploy.can_convert("model.keras")


def test_layers_that_stay_float_are_in_the_report():
    model = functional(
        lq.layers.QuantDepthwiseConv2D(3, input_quantizer="ste_sign", name="depth"),
        layers.QuantConv2D(4, 1, input_quantizer="dorefa_quantizer", name="bits"),
    )
    assert deploy.float_layers(model) == [
        ("depth", "Larq Compute Engine has no binary depthwise convolution"),
        ("bits", "its input quantizer DoReFa is not a sign"),
    ]
    content = deploy.convert(model, "tflite", allow_float=True)
    text = deploy.report(content, model).summary()
    assert text.splitlines()[-2:] == [
        "float: depth, Larq Compute Engine has no binary depthwise convolution",
        "float: bits, its input quantizer DoReFa is not a sign",
    ]
    assert deploy.report(content).float_layers == ()


def test_inspect_lists_what_cannot_be_converted(tmp_path, capsys):
    path = tmp_path / "model.keras"
    failing().save(path)
    assert main(["inspect", str(path)]) == 2
    captured = capsys.readouterr()
    starts = [line.split(": ")[0] for line in captured.out.splitlines()]
    assert starts == ["inner/odd", "half", "deep"]
    assert "can be exported. Received: inner/odd, half, deep. Fix: " in captured.err


def test_the_guide_lists_every_layer():
    guide = Path(__file__).parents[2] / "docs/deploy.md"
    begin, end = "<!-- layers -->\n", "\n<!-- end of layers -->"
    listed = guide.read_text().partition(begin)[2].partition(end)[0]
    assert listed == layers_table(), (
        "put what larq_nobn.deploy.coverage.layers_table() returns between the "
        "comments in docs/deploy.md"
    )
