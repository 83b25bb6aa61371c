"""Batch norm taken out of networks that are not the zoo's."""

import subprocess
import sys

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

import larq_nobn
from larq_nobn import UserError, layers, zoo
from larq_nobn._larq import import_larq_zoo
from larq_nobn.batch_norm import describe_removal, fold_batch_norm, remove_batch_norm
from larq_nobn.batch_norm.graph import is_batch_norm
from larq_nobn.cli import main
from larq_nobn.optimizers import AdaptiveGradientClipping
from larq_nobn.probes import signal_propagation

keras = tf.keras.layers

# Images as small as the networks allow.
NETWORKS = {
    "BinaryAlexNet": ("literature", 128),
    "BiRealNet": ("literature", 64),
    "BinaryResNetE18": ("literature", 32),
    "BinaryDenseNet28": ("literature", 32),
    "MeliusNet22": ("literature", 32),
    "RealToBinaryNet": ("literature", 64),
    "XNORNet": ("literature", 224),
    "DoReFaNet": ("literature", 128),
    "QuickNet": ("sota", 64),
}


def noise(shape, seed=1, count=8):
    values = np.random.default_rng(seed).standard_normal((count, *shape))
    return values.astype(np.float32)


def give_statistics(model):
    """Batch norms as after training."""
    rng = np.random.default_rng(0)
    for layer in filter(is_batch_norm, model.layers):
        size = layer.moving_mean.shape
        layer.moving_mean.assign(rng.normal(0, 0.3, size))
        layer.moving_variance.assign(rng.uniform(0.5, 20, size))
        if layer.scale:
            layer.gamma.assign(rng.choice([-1, 1, 1, 1], size) * rng.uniform(0.5, 1.5))
        if layer.center:
            layer.beta.assign(rng.normal(0, 0.3, size))


def conv_norm(filters=8, **kwargs):
    kwargs = {"padding": "same", "use_bias": False, **kwargs}
    return [keras.Conv2D(filters, 3, **kwargs), keras.BatchNormalization()]


def stack(*layers_, shape=(8, 8, 3)):
    x = image = tf.keras.Input(shape)
    for layer in layers_:
        x = layer(x)
    return tf.keras.Model(image, x, name="stack")


def residual():
    """One block with a shortcut as it is, one with a convolution on it."""
    x = image = tf.keras.Input((16, 16, 3))
    x = keras.Conv2D(8, 3, padding="same", name="stem")(x)
    x = keras.BatchNormalization(name="stem_bn")(x)
    for i, strides in enumerate((1, 1, 2)):
        shortcut = x
        if strides > 1:
            shortcut = keras.Conv2D(8, 1, strides=2, name="shortcut")(x)
            shortcut = keras.BatchNormalization(name="shortcut_bn")(shortcut)
        f = lq.layers.QuantConv2D(
            8,
            3,
            strides=strides,
            padding="same",
            input_quantizer="ste_sign",
            kernel_quantizer="ste_sign",
            kernel_constraint="weight_clip",
            name=f"conv{i}",
        )(x)
        f = keras.BatchNormalization(name=f"bn{i}")(f)
        # Both orders, and both ways to say it.
        x = keras.Add(name=f"add{i}")([f, shortcut]) if i else shortcut + f
    return tf.keras.Model(image, x, name="residual")


@pytest.mark.slow
@pytest.mark.larq_zoo
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_larq_zoo(name):
    room, size = NETWORKS[name]
    make = getattr(getattr(import_larq_zoo(), room), name)
    model = make(weights=None, num_classes=10, input_shape=(size, size, 3))
    images = noise((size, size, 3))
    twin = remove_batch_norm(model)
    assert not any(is_batch_norm(layer) for layer in twin._flatten_layers())
    binary = [x for x in model.layers if type(x) is lq.layers.QuantConv2D]
    for layer in binary:
        new = twin.get_layer(layer.name)
        assert isinstance(new, layers.ScaledWSConv2D)
        assert (new.input_quantizer is None) == (layer.input_quantizer is None)
        assert (new.kernel_quantizer is None) == (layer.kernel_quantizer is None)
    # Other noise than it was measured on. The paper's networks grow by α² a block.
    variances = [row["variance"] for row in signal_propagation(twin, images)]
    assert 0.3 < min(variances)
    assert max(variances) < 1.3

    give_statistics(model)
    folded = fold_batch_norm(model)
    assert not any(is_batch_norm(layer) for layer in folded._flatten_layers())
    assert folded.count_params() < model.count_params()
    logits = [
        tf.keras.Model(x.input, x.layers[-2].output)(images[:2])
        for x in (model, folded)
    ]
    largest = np.abs(logits[0]).max()
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4 * largest)


class TestRemoval:
    def test_blocks_are_the_papers(self):
        twin = remove_batch_norm(residual(), alpha=0.5)
        assert twin.name == "residual_free"
        for i in (1, 2):
            assert twin.get_layer(f"add{i}").alpha == pytest.approx(0.5, rel=0.15)
            assert twin.get_layer(f"conv{i}").kernel_quantizer is not None
        joins = [x for x in twin.layers if isinstance(x, layers.ScaledAdd)]
        assert len(joins) == 3
        # β of a block behind one that added α².
        beta = twin.get_layer("conv1_beta").factor
        assert beta == pytest.approx(1.25**-0.5, rel=0.1)
        # The convolution on the shortcut reads βx too, the bare shortcut does not.
        betas = [x for x in twin.layers if isinstance(x, layers.Scale)]
        (last,) = (x for x in betas if twin.get_layer("shortcut").input is x.output)
        assert twin.get_layer("conv2").input is last.output
        assert twin.get_layer("add1").input[1] is joins[0].output

    def test_measured_on_given_images(self):
        model = stack(*conv_norm(), keras.ReLU(), *conv_norm())
        images = 5 + 3 * noise((8, 8, 3), count=32)
        twin = remove_batch_norm(model, images=images)
        rows = signal_propagation(twin, images)
        assert [row["variance"] for row in rows] == pytest.approx([1, 1], abs=0.2)
        gammas = [x.gamma for x in twin.layers if hasattr(x, "gamma")]
        assert gammas[0] < 0.5
        assert gammas[1] > 1.3

    def test_weights_are_copied_and_the_model_kept(self):
        model = residual()
        before = [w.copy() for w in model.get_weights()]
        images = noise((16, 16, 3))
        expected = model(images)
        twin = remove_batch_norm(model)
        np.testing.assert_array_equal(
            twin.get_layer("conv1").kernel, model.get_layer("conv1").kernel
        )
        twin.get_layer("conv1").kernel.assign_add(
            tf.ones_like(twin.get_layer("conv1").kernel)
        )
        for a, b in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(model(images), expected)

    def test_pooled_signals_are_centred(self):
        """Maxima behind a convolution are positive: without a mean all signs are +1."""
        model = stack(
            keras.Conv2D(8, 3),
            keras.MaxPooling2D(2),
            keras.BatchNormalization(),
            keras.Activation("relu"),
        )
        twin = remove_batch_norm(model)
        outputs = tf.keras.Model(twin.input, twin.layers[-1].input)(noise((8, 8, 3)))
        assert np.abs(np.mean(outputs, axis=(0, 1, 2))).max() < 0.3
        assert np.std(outputs) == pytest.approx(1, abs=0.2)

    def test_a_dense_layer_in_front_of_batch_norm(self):
        model = stack(
            keras.Flatten(), keras.Dense(16), keras.BatchNormalization(), keras.Dense(3)
        )
        twin = remove_batch_norm(model)
        first, last = (x for x in twin.layers if isinstance(x, keras.Dense))
        np.testing.assert_allclose(np.mean(first.kernel, axis=0), 0, atol=1e-6)
        assert first.kernel.constraint is not None
        assert last.kernel.constraint is None

    @pytest.mark.parametrize("kind", ["depthwise", "transposed"])
    def test_layers_that_keep_their_class(self, kind):
        layer = {
            "depthwise": keras.DepthwiseConv2D(3),
            "transposed": keras.Conv2DTranspose(4, 3),
        }[kind]
        twin = remove_batch_norm(stack(layer, keras.BatchNormalization()))
        (weight, *_) = twin.layers[1].weights
        axes = {"depthwise": (0, 1), "transposed": (0, 1, 3)}[kind]
        np.testing.assert_allclose(np.mean(weight, axis=axes), 0, atol=1e-6)
        assert np.std(twin(noise((8, 8, 3)))) < 1.5

    def test_frozen_layers_stay(self):
        model = stack(*conv_norm(), *conv_norm())
        frozen = model.layers[1]
        frozen.trainable = False
        twin = remove_batch_norm(model)
        assert type(twin.layers[1]) is keras.Conv2D
        assert not twin.layers[1].trainable
        np.testing.assert_array_equal(twin.layers[1].kernel, frozen.kernel)
        assert isinstance(twin.get_layer(model.layers[3].name), layers.ScaledWSConv2D)
        assert signal_propagation(twin, noise((8, 8, 3)))[-1]["variance"] < 1.5

    def test_deleted(self):
        model = residual()
        deleted = remove_batch_norm(model, norm="none")
        kept = [x.name for x in model.layers if not is_batch_norm(x)]
        assert [x.name for x in deleted.layers] == kept

    @pytest.mark.slow
    def test_the_twin_trains_and_is_saved(self, tmp_path):
        twin = remove_batch_norm(residual())
        x = keras.GlobalAveragePooling2D()(twin.output)
        model = tf.keras.Model(twin.input, keras.Dense(3)(x))
        model.compile(AdaptiveGradientClipping(tf.keras.optimizers.Adam(0.01)), "mse")
        images, y = noise((16, 16, 3), count=32), noise((3,), count=32)
        first = model.evaluate(images, y, verbose=0)
        model.fit(images, y, epochs=10, verbose=0)
        assert model.evaluate(images, y, verbose=0) < 0.9 * first
        model.save(tmp_path / "twin.keras")
        loaded = tf.keras.models.load_model(tmp_path / "twin.keras")
        np.testing.assert_array_equal(loaded(images), model(images))

    def test_every_failure_is_listed(self):
        shared = keras.BatchNormalization(name="shared")
        x = image = tf.keras.Input((8, 8, 4))
        a = shared(keras.Conv2D(4, 3, padding="same")(x))
        b = shared(keras.Conv2D(4, 3, padding="same")(x))
        x = keras.Add(name="alike")([a, b])
        inner = tf.keras.Sequential([*conv_norm(4)], name="inner")
        x = inner(x)
        x = keras.BatchNormalization(axis=1, name="rows")(x)
        model = tf.keras.Model(image, x, name="hard")
        with pytest.raises(UserError) as caught:
            remove_batch_norm(model)
        for part in ("shared (BatchN", "alike (Add): both", "inner (Seq", "axis"):
            assert part in str(caught.value)
        problems = {x.layer for x in describe_removal(model) if x.problem}
        assert problems == {"shared", "alike", "inner", "rows"}
        with pytest.warns(UserWarning, match="stays as it is") as warned:
            twin = remove_batch_norm(model, allow_untranslated=True)
        assert sum("stays as it is" in str(x.message) for x in warned) == 4
        assert isinstance(twin.get_layer("alike"), keras.Add)
        assert is_batch_norm(twin.get_layer("rows"))

    def test_a_shared_convolution_is_reported(self):
        conv = keras.Conv2D(3, 3, padding="same", name="twice")
        model = stack(conv, conv, keras.BatchNormalization())
        with pytest.raises(UserError, match="twice .Conv2D.: shared"):
            remove_batch_norm(model)

    @pytest.mark.parametrize(
        ("kwargs", "match"),
        [
            ({"norm": "batch"}, "`norm` must be one of 'free', 'none'"),
            ({"alpha": 0}, "`alpha`"),
            ({"images": noise((8, 8, 4))}, "`images` must be a batch"),
            ({"images": noise((8, 8, 3), count=0)}, "`images` must be a batch"),
        ],
    )
    def test_bad_arguments(self, kwargs, match):
        with pytest.raises(UserError, match=match):
            remove_batch_norm(stack(*conv_norm()), **kwargs)


class TestFold:
    @pytest.mark.parametrize("norm_at", ["behind", "in front"])
    @pytest.mark.parametrize(
        "layer",
        [
            lambda: keras.Conv2D(4, 3, use_bias=False),
            lambda: keras.Conv2D(4, 3, activation="relu"),
            lambda: keras.DepthwiseConv2D(3, depth_multiplier=2),
            lambda: keras.SeparableConv2D(4, 3),
            lambda: keras.Conv2DTranspose(4, 3),
            lambda: lq.layers.QuantConv2D(
                4, 3, input_quantizer="ste_sign", kernel_quantizer="approx_sign"
            ),
            lambda: layers.ScaledWSConv2D(4, 3),
            lambda: layers.ScaledWSConv2D(4, 3, kernel_quantizer="scaled_sign"),
            lambda: keras.Dense(4),
        ],
    )
    @pytest.mark.filterwarnings("ignore:Using a binary weight quantizer")
    def test_exact(self, float64, layer, norm_at):
        parts = [layer(), keras.BatchNormalization()]
        model = stack(*(parts if norm_at == "behind" else reversed(parts)))
        give_statistics(model)
        folded = fold_batch_norm(model)
        images = noise((8, 8, 3)).astype(np.float64)
        np.testing.assert_allclose(folded(images), model(images), rtol=0, atol=1e-12)

    def test_real_kernels_leave_no_layer_behind(self):
        folded = fold_batch_norm(stack(*conv_norm(), keras.ReLU(), *conv_norm()))
        names = [type(x).__name__ for x in folded.layers]
        assert names == ["InputLayer", "Conv2D", "ReLU", "Conv2D"]

    def test_an_output_with_two_readers_is_left(self):
        x = image = tf.keras.Input((8, 8, 3))
        x = keras.Conv2D(4, 3)(x)
        y = keras.BatchNormalization()(x)
        model = tf.keras.Model(image, keras.Add()([x, y]))
        give_statistics(model)
        images = noise((8, 8, 3))
        np.testing.assert_allclose(
            fold_batch_norm(model)(images), model(images), atol=1e-5
        )

    def test_a_shared_batch_norm_stays_shared(self):
        norm = keras.BatchNormalization()
        model = stack(keras.Conv2D(3, 3, padding="same"), norm, keras.ReLU(), norm)
        give_statistics(model)
        folded = fold_batch_norm(model)
        images = noise((8, 8, 3))
        np.testing.assert_allclose(folded(images), model(images), atol=1e-5)

    @pytest.mark.slow
    @pytest.mark.lce
    def test_a_zoo_twin_folds_and_is_exported(self):
        from larq_nobn import deploy

        model = zoo.create_model(
            "reactnet18", norm="batch", stem="cifar", width=8, input_shape=(16, 16, 3)
        )
        give_statistics(model)
        folded = fold_batch_norm(model)
        report = deploy.check(
            folded, deploy.convert(folded), noise((16, 16, 3), count=16)
        )
        assert report.unexplained == 0

    def test_axis(self):
        model = stack(keras.Conv2D(4, 3), keras.BatchNormalization(axis=2))
        with pytest.raises(UserError, match="must normalize the last axis"):
            fold_batch_norm(model)

    def test_nested(self):
        model = stack(tf.keras.Sequential(conv_norm(), name="inner"))
        with pytest.raises(UserError, match="'inner' of class Sequential"):
            fold_batch_norm(model)


@pytest.mark.parametrize("function", [remove_batch_norm, fold_batch_norm])
class TestOther:
    def test_no_batch_norm(self, function):
        with pytest.raises(UserError, match="must have batch norm. Received: stack"):
            function(stack(keras.Conv2D(4, 3)))

    def test_no_model(self, function):
        with pytest.raises(UserError, match="must be a Keras model. Received: str"):
            function("model.keras")

    def test_subclassed(self, function):
        class Own(tf.keras.Model):
            def call(self, inputs):
                return inputs

        with pytest.raises(UserError, match="a subclassed Own"):
            function(Own())

    def test_unbuilt(self, function):
        model = tf.keras.Sequential(conv_norm())
        with pytest.raises(UserError, match="must be built"):
            function(model)

    def test_an_unclonable_layer(self, function):
        class Odd(keras.Layer):
            def __init__(self, argument):
                super().__init__()

        model = stack(Odd(object()), *conv_norm())
        with pytest.raises(UserError, match="that Keras can make again"):
            function(model)


def test_top_level_names():
    assert larq_nobn.remove_batch_norm is remove_batch_norm
    assert larq_nobn.fold_batch_norm is fold_batch_norm


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["free", "none", "fold"])
def test_command(tmp_path, capsys, mode):
    residual().save(tmp_path / "model.keras")
    out = tmp_path / "twin.keras"
    arguments = [str(tmp_path / "model.keras"), "--out", str(out), "--mode", mode]
    assert main(["remove-bn", *arguments]) == 0
    twin = tf.keras.models.load_model(out)
    assert not any(map(is_batch_norm, twin.layers))
    printed = capsys.readouterr().out
    assert ("ScaledWSConv2D" in printed) == (mode == "free")


@pytest.mark.slow
@pytest.mark.larq_zoo
@pytest.mark.filterwarnings("ignore:The `keras.initializers.serialize")
def test_command_knows_larq_zoos_objects(tmp_path):
    """In a process that did not import larq-zoo by itself."""
    model = import_larq_zoo().sota.QuickNet(
        weights=None, num_classes=10, input_shape=(64, 64, 3)
    )
    model.save(tmp_path / "model.keras")
    command = [sys.executable, "-m", "larq_nobn", "remove-bn", "--mode", "fold"]
    paths = [str(tmp_path / "model.keras"), "--out", str(tmp_path / "folded.keras")]
    result = subprocess.run([*command, *paths], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "folded.keras").exists()


def test_command_takes_keras_files_only(tmp_path, capsys):
    residual().save(tmp_path / "model.keras")
    out = str(tmp_path / "twin.h5")
    assert main(["remove-bn", str(tmp_path / "model.keras"), "--out", out]) == 2
    assert "must be a .keras file" in capsys.readouterr().err
