import numpy as np
import pytest
import tensorflow as tf

from larq_nobn import UserError, probes, zoo


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.standard_normal((16, 16, 16, 3)).astype(np.float32)


def tiny(norm="free", width=8):
    return zoo.create_model(
        "reactnet18",
        norm=norm,
        stem="cifar",
        width=width,
        input_shape=(16, 16, 3),
        num_classes=10,
    )


def test_moments_are_those_of_the_activations(images):
    model = tiny()
    rows = probes.signal_propagation(model, images)
    assert len(rows) == 16
    assert rows[5]["layer"] == "stage2_unit2_rprelu"
    inner = tf.keras.Model(model.input, model.get_layer("stage2_unit2_rprelu").output)
    output = inner(images).numpy().astype(np.float64)
    assert rows[5]["variance"] == pytest.approx(output.var(axis=(0, 1, 2)).mean())
    expected = (output.mean(axis=(0, 1, 2)) ** 2).mean()
    assert rows[5]["mean_squared"] == pytest.approx(expected)


@pytest.mark.slow
def test_bn_free_stays_in_check_where_plain_runs_away(images):
    def spread(norm):
        rows = probes.signal_propagation(tiny(norm, width=16), images)
        # Within the last stage, where no downsampling resets anything.
        means = [row["mean_squared"] for row in rows[-4:]]
        return max(means) / min(means)

    assert 2 * spread("free") < spread("none")


def test_a_stack_without_shortcuts_is_probed_at_its_convolutions(images):
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Conv2D(4, 3, input_shape=(16, 16, 3)),
            tf.keras.layers.Conv2D(4, 3),
        ]
    )
    rows = probes.signal_propagation(model, images)
    assert [row["layer"] for row in rows] == [layer.name for layer in model.layers]


def test_subclassed_models_are_refused(images):
    class Own(tf.keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(UserError, match="functional or Sequential .*Received: Own"):
        probes.signal_propagation(Own(), images)


def test_models_without_blocks_are_refused(images):
    model = tf.keras.Sequential([tf.keras.layers.Dense(3, input_shape=(4,))])
    with pytest.raises(UserError, match="residual blocks or convolutions"):
        probes.signal_propagation(model, images)


@pytest.mark.slow
def test_drawing(images, tmp_path):
    measured = {
        norm: probes.signal_propagation(tiny(norm), images) for norm in ("free",)
    }
    probes.draw_signal_propagation(measured, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[1:4] == b"PNG"
