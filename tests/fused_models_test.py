"""`FusedModel` computes what its layers do, each by itself."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from larq_nobn import ops
from larq_nobn.layers import (
    LearnableBias,
    QuantConv2D,
    RPReLU,
    Scale,
    ScaledAdd,
    ScaledWSConv2D,
)
from larq_nobn.models import FusedModel
from larq_nobn.quantizers import FusedApproxSign, SigmoidSign
from larq_nobn.zoo import create_model

rng = np.random.default_rng(0)


def _unit(
    x,
    cls=QuantConv2D,
    quantizer=FusedApproxSign,
    alpha=0.2,
    strides=1,
    add=ScaledAdd,
):
    shortcut = x = RPReLU()(x)
    if strides == 2:
        shortcut = tf.keras.layers.AveragePooling2D()(x)
    x = LearnableBias()(Scale(0.7)(x))
    x = cls(
        4,
        3,
        strides=strides,
        padding="symmetric",
        input_quantizer=quantizer(),
        kernel_quantizer="scaled_sign",
        kernel_initializer="random_normal",
        use_bias=False,
    )(x)
    return add(alpha)([x, shortcut])


def _randomized(model):
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def _units(**kwargs):
    """Two units and an activation."""
    image = tf.keras.Input((8, 8, 4))
    x = _unit(_unit(image, **kwargs), strides=2, **kwargs)
    return _randomized(FusedModel(image, RPReLU()(x)))


def _step(model, x, dy, variables=None):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x, training=True)
        loss = tf.reduce_sum(y * dy)
    variables = model.trainable_variables if variables is None else variables
    return y, tape.gradient(loss, [x, *variables])


def _images(dtype="float64"):
    return (tf.constant(rng.normal(size=(2, n, n, 4)), dtype) for n in (8, 4))


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "kwargs",
    [
        {"cls": ScaledWSConv2D},
        {"cls": ScaledWSConv2D, "quantizer": SigmoidSign, "alpha": 1.0},
        {"cls": QuantConv2D},
    ],
)
def test_results_and_gradients_are_the_layers(kwargs):
    model = _units(**kwargs)
    x, dy = _images()
    theirs = _step(model, x, dy)
    graphs = [tf.function(_step, jit_compile=compiled) for compiled in (False, True)]
    # The graph may also be that of the forward pass only, differentiated from outside.
    forward = tf.function(lambda x, training: model(x, training=training))
    for ours in (
        *(graph(model, x, dy) for graph in graphs),
        _step(forward, x, dy, model.trainable_variables),
    ):
        for a, b in zip(*map(tf.nest.flatten, (ours, theirs)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    assert len(model.fusion_plan.units) == 2


NETWORKS = [
    ("reactnet18", {"units": 2}),
    ("reactnet18", {"units": 1, "binary_weights": False}),
    ("reactnet18", {"units": 2, "norm": "batch"}),
    ("birealnet18", {"units": 1}),
    ("abnet18", {"units": 1}),
    pytest.param("reactnet_a", {}, marks=pytest.mark.slow),
]


def _network(name, **kwargs):
    model = create_model(
        name,
        stem="cifar",
        width=4,
        num_classes=10,
        classifier_activation=None,
        **kwargs,
    )
    # Away from ties, whose signs hang on rounding.
    for variable in model.trainable_variables:
        variable.assign_add(0.01 * rng.normal(size=variable.shape))
    return model


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("name", "kwargs"), NETWORKS)
def test_networks_train_alike_in_every_mode(name, kwargs):
    model = _network(name, **kwargs)
    before = model.get_weights()
    x, dy = tf.constant(rng.normal(size=(2, 32, 32, 3))), rng.normal(size=(2, 10))
    results = []
    for mode in ("plain", "cpu"):
        model.set_weights(before)  # Batch norm's statistics move.
        with ops.using(mode):
            results.append(tf.function(_step)(model, x, dy))
    for a, b in zip(*map(tf.nest.flatten, results), strict=True):
        scale = np.max(np.abs(a)) or 1.0
        np.testing.assert_allclose(b / scale, a / scale, rtol=0, atol=1e-9)
    plan = model.fusion_plan
    convolutions = [x for x in model.layers if getattr(x, "input_quantizer", None)]
    assert len(plan.unit_of) == len(convolutions) > 0
    is_free = kwargs.get("norm", "free") == "free"
    assert len(plan.sums) == is_free * len(convolutions)


def _gradients_by_outputs(network, names):
    """Of the logits, by the outputs of layers: as a function of images."""
    layers = [network.get_layer(name).output for name in names]
    model = FusedModel(network.inputs, [*layers, network.output])

    def gradients(x):
        with tf.GradientTape() as tape:
            *outputs, logits = model(x, training=True)
            loss = tf.reduce_sum(tf.square(logits))
        return tape.gradient(loss, outputs)

    return gradients


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("graph", [True, False])
def test_every_intermediate_activation_has_its_gradient(graph):
    """Saliency, feature losses and penalties take them: all at once, or one of each."""
    network = _network("reactnet18", units=2, input_shape=(8, 8, 3))
    everything = [x.name for x in network.layers[1:] if x.name != "predictions"]
    unit = "stage2_unit2_"
    parts = [name for name in everything if name.startswith(unit)]
    assert len(parts) >= 4  # β is 1 in the second unit.
    first = [name for name in everything if name.startswith("stage2_unit1_")]
    assert {"stage2_unit1_beta", "stage2_unit1_downsample"} <= {*first}
    x = tf.constant(rng.normal(size=(2, 8, 8, 3)))
    with ops.using("plain"):
        expected = tf.function(_gradients_by_outputs(network, everything))(x)
    expected = dict(zip(everything, expected, strict=True))
    alone = [[name] for name in ("stem", *first, *parts)] if graph else []
    for names in (everything, *alone):
        gradients = _gradients_by_outputs(network, names)
        results = (tf.function(gradients) if graph else gradients)(x)
        for name, a in zip(names, results, strict=True):
            assert a is not None, name
            b = expected[name]
            assert np.max(np.abs(b)) > 0, name
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=name)


def _sign_and_shortcut(x, joined):
    """A branch that starts with a sign, and a sum with its source or not with it."""
    conv = QuantConv2D(3, 1, input_quantizer=FusedApproxSign(), use_bias=False)
    other = QuantConv2D(3, 1, input_quantizer=FusedApproxSign(), use_bias=False)
    branch, others = conv(x), other(LearnableBias()(x))
    return branch, others, ScaledAdd(0.2)([branch if joined else others, x])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("wanted", [[2], [0, 2], [1, 2], [0], [0, 1, 2]])
@pytest.mark.parametrize("joined", [True, False])
def test_no_shortcuts_gradient_is_lost(joined, wanted):
    """Whichever results of a network the loss is of, and whatever it is by."""
    image = tf.keras.Input((4, 4, 3))
    x = LearnableBias()(image)
    model = _randomized(FusedModel(image, _sign_and_shortcut(x, joined)))
    images = tf.constant(rng.normal(size=(2, 4, 4, 3)))
    factors = rng.normal(size=(3, 2, 4, 4, 3))

    def gradients():
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            outputs = model(images, training=True)
            loss = sum(tf.reduce_sum(outputs[i] * factors[i]) for i in wanted)
        sources = [images, *model.trainable_variables]
        # Twice: nothing of the first time is left for the second.
        return [
            tape.gradient(loss, sources, unconnected_gradients="zero") for _ in range(2)
        ]

    theirs, ours = gradients(), tf.function(gradients)()
    for a, b in zip(*map(tf.nest.flatten, (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_signs_are_not_kept_for_the_gradient():
    """Where nothing pads them, they are computed again, and not too early."""
    model = _units()
    graph = tf.function(_step).get_concrete_function(model, *_images("float32")).graph
    operators = {"Conv2D": [], "Conv2DBackpropInput": [], "Conv2DBackpropFilter": []}
    for op in graph.get_operations():
        if op.type in operators and tuple(op.get_attr("strides")) == (1, 1, 1, 1):
            operators[op.type].append(op)
    (forward,), (to_input,), (to_kernel,) = operators.values()
    signs, again = forward.inputs[0], to_kernel.inputs[0]
    assert again.ref() != signs.ref()
    # TensorFlow merges the two computations, and so keeps the first, unless the second
    # waits for something.
    assert to_input in again.op.control_inputs


def test_layers_that_do_more_stay_by_themselves():
    """A metric, a bias or a regularizer is not lost."""
    image = tf.keras.Input((4, 4, 4))
    x = _unit(image)
    x = RPReLU(activity_regularizer="l2")(x)
    x = QuantConv2D(4, 1, input_quantizer=FusedApproxSign(), use_bias=True)(x)
    model = FusedModel(image, x)
    images = tf.constant(rng.normal(size=(2, 4, 4, 4)), "float32")
    tf.function(model)(images, training=True)
    assert len(model.fusion_plan.units) == 1
    assert len(model.losses) == 1


class _OtherAdd(ScaledAdd):
    def call(self, inputs):
        return super().call(inputs) + 1


class _OtherSign(FusedApproxSign):
    def call(self, inputs):
        return super().call(inputs) * 2


class _OtherConv(ScaledWSConv2D):
    def call(self, inputs, training=None):
        return super().call(inputs, training=training) * 3


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "kwargs", [{"add": _OtherAdd}, {"quantizer": _OtherSign}, {"cls": _OtherConv}]
)
def test_subclasses_compute_what_they_say(kwargs):
    """A user's `call` is not passed by."""
    model = _units(**{"cls": ScaledWSConv2D, **kwargs})
    x, dy = _images()
    results = _step(model, x, dy), tf.function(_step)(model, x, dy)
    for a, b in zip(*map(tf.nest.flatten, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float32"])
def test_layers_of_another_precision_keep_theirs(policy):
    """The float32 map between layers of half precision stays one."""
    image = tf.keras.Input((4, 4, 4))
    x = LearnableBias(dtype="float32")(image)
    conv = QuantConv2D(
        4, 1, input_quantizer=FusedApproxSign(), use_bias=False, dtype=policy
    )
    model = _randomized(FusedModel(image, [conv(x), Scale(1.0, dtype="float32")(x)]))
    images = tf.constant(1 + 1e-4 * rng.normal(size=(2, 4, 4, 4)), "float32")
    results = model(images, training=True), tf.function(model)(images, training=True)
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(*(tf.cast(y, "float32").numpy() for y in (a, b)))
    assert len(model.fusion_plan.units) == (policy == "float32")


@pytest.mark.slow
def test_saves_loads_and_clones(tmp_path):
    model = _units()
    images = tf.constant(rng.normal(size=(2, 8, 8, 4)), "float32")
    expected = model(images)
    for name in ("model.keras", "model.h5", "model"):
        model.save(tmp_path / name)
        loaded = tf.keras.models.load_model(tmp_path / name)
        np.testing.assert_array_equal(loaded(images), expected)
        assert name == "model" or isinstance(loaded, FusedModel)
    # Importing the package is all that another process has to do.
    code = "import sys, larq_nobn, tensorflow as tf;"
    code += "print(type(tf.keras.models.load_model(sys.argv[1])).__name__)"
    for name in ("model.keras", "model.h5"):
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.stdout.split()[-1:] == ["FusedModel"], done.stderr
    clone = tf.keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(images), expected)
