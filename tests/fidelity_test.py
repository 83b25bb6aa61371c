"""Equal to the reference code, to nine digits: see data/README.md.

The table at the end of the run lists every case with its largest deviation.
"""

import concurrent.futures
import gc
import multiprocessing

import golden
import larq as lq
import numpy as np
import pytest
import tensorflow as tf
from golden import TOLERANCE, deviation, gradient_deviation, hwio, nhwc

from larq_nobn import ops
from larq_nobn.layers import LearnableBias, QuantConv2D, RPReLU, ScaledWSConv2D
from larq_nobn.losses import DistributionLoss
from larq_nobn.math import adaptive_gradient_clip
from larq_nobn.optimizers import AdaptiveGradientClipping, CoupledWeightDecay

pytestmark = pytest.mark.usefixtures("float64")

cross_entropy = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def test_every_case_is_compared():
    assert {*golden.MODELS, *golden.TRAJECTORIES} == {*golden.INDEX["cases"]}
    files = {path.stem for path in golden.DATA.glob("*.npz")}
    cases = {f"model_{case}" for case in golden.MODELS} | {*golden.TRAJECTORIES}
    assert files == cases | {"agc", "layers", "losses"}


# As it stands in `larq_nobn.math`, eagerly; and as it trains, a graph for a CPU.
MODES = {"plain": lambda step: step, "cpu": lambda step: tf.function(step)}
modes = pytest.mark.parametrize(
    "mode", ["plain", pytest.param("cpu", marks=pytest.mark.slow)]
)


def _model_deviations(case: str) -> dict[str, dict[str, float]]:
    """By mode: deviations of logits, loss and every gradient."""
    tf.keras.backend.set_floatx("float64")
    expected = golden.load(f"model_{case}")
    model = golden.build(case)
    keys = golden.trainable_keys(case)
    entries = golden.entries(model, keys)
    assert len(entries) == len(model.trainable_variables) == len(expected["grad_norm"])

    x, y = golden.images(case), golden.labels(case)
    logits_eval = model(x, training=False)

    def step(x, y):
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = cross_entropy(y, logits)
        return logits, loss, tape.gradient(loss, [entry.variable for entry in entries])

    stored = list(zip(keys, expected["grad_norm"], expected["grad_head"], strict=True))
    statistics = {v.ref(): v.numpy() for v in model.non_trainable_variables}
    deviations = {}
    for mode, as_it_runs in MODES.items():
        for variable in model.non_trainable_variables:  # Batch norm's move in a step.
            variable.assign(statistics[variable.ref()])
        with ops.using(mode):
            logits_train, loss, gradients = as_it_runs(step)(x, y)
        gradients = [
            e.to_torch(g.numpy()) for e, g in zip(entries, gradients, strict=True)
        ]
        deviations[mode] = {
            "eval logits": deviation(logits_eval, expected["logits_eval"]),
            "train logits": deviation(logits_train, expected["logits_train"]),
            "loss": deviation(loss, expected["loss"]),
            **{
                f"gradient of {key}": gradient_deviation(gradient, norm, head)
                for gradient, (key, norm, head) in zip(gradients, stored, strict=True)
            },
        }
    return deviations


class _Processes:
    """Runs functions in another process, a new one for every third of them.

    TensorFlow keeps the memory that networks of full size took, a gigabyte or more
    for each of them in float64, until the process ends.
    """

    def __init__(self):
        self._runs = 0
        self._executor = None

    def run(self, function, *args):
        if self._runs % 3 == 0:
            self.close()
            self._executor = concurrent.futures.ProcessPoolExecutor(
                1, mp_context=multiprocessing.get_context("spawn")
            )
        self._runs += 1
        return self._executor.submit(function, *args).result()

    def close(self):
        if self._executor:
            self._executor.shutdown()


@pytest.fixture(scope="module")
def processes():
    processes = _Processes()
    yield processes
    processes.close()


@pytest.mark.slow
@pytest.mark.parametrize("case", golden.MODELS)
def test_model(case, processes, parity):
    for mode, deviations in processes.run(_model_deviations, case).items():
        parity(f"{case}, {mode}", deviations, TOLERANCE)


def _conv(cls, kernel_quantizer=None, **kwargs):
    return lambda filters, size, strides: cls(
        filters,
        size,
        strides=strides,
        padding="symmetric",
        use_bias=False,
        kernel_quantizer=kernel_quantizer,
        **kwargs,
    )


# The longest prefix of the case's name counts.
_CONVOLUTIONS = {
    "scaled_ws_conv": _conv(ScaledWSConv2D),
    "binary_scaled_ws_conv": _conv(ScaledWSConv2D, "scaled_sign"),
    "binary_scaled_ws_conv3x3_gamma1.7_eps1e-3": _conv(
        ScaledWSConv2D, "scaled_sign", gamma=1.7, eps=1e-3
    ),
    "binary_conv": _conv(QuantConv2D, "scaled_sign"),
}
_LAYERS = golden.load_parts("layers")


def _layer_deviations(layer, inputs, cotangent, expected):
    """Deviations of output and input gradient, and the weights' gradients."""
    x = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    dx, *gradients = tape.gradient(y, [x, *layer.trainable_variables], cotangent)
    deviations = {
        "output": deviation(y, nhwc(expected["y"])),
        "input gradient": deviation(dx, nhwc(expected["dx"])),
    }
    return deviations, [gradient.numpy() for gradient in gradients]


@pytest.mark.parametrize("case", [name for name in _LAYERS if "conv" in name])
def test_convolution(case, parity):
    expected = _LAYERS[case]
    weight = hwio(expected["param:weight"])
    x, dy = nhwc(expected["x"]), nhwc(expected["dy"])
    make = _CONVOLUTIONS[max(filter(case.startswith, _CONVOLUTIONS), key=len)]
    layer = make(weight.shape[3], weight.shape[0], x.shape[1] // dy.shape[1])
    layer.build(x.shape)
    names = [key.split(":")[1] for key in expected if key.startswith("param:")]
    assert len(names) == len(layer.weights)
    layer.set_weights([hwio(expected[f"param:{name}"]) for name in names])
    deviations, gradients = _layer_deviations(layer, x, dy, expected)
    for name, gradient in zip(names, gradients, strict=True):
        wanted = hwio(expected[f"grad:{name}"])
        deviations[f"gradient of {name}"] = deviation(gradient, wanted)
    parity(case, deviations, TOLERANCE)


def test_learnable_bias(parity):
    expected = _LAYERS["learnable_bias"]
    layer = LearnableBias()
    layer.build((None, None, None, 6))
    layer.set_weights([expected["param:bias"].ravel()])
    x, dy = nhwc(expected["x"]), nhwc(expected["dy"])
    deviations, (gradient,) = _layer_deviations(layer, x, dy, expected)
    deviations["gradient"] = deviation(gradient, expected["grad:bias"].ravel())
    parity("learnable_bias", deviations, TOLERANCE)


def test_prelu_within_rprelu(parity):
    expected = _LAYERS["prelu"]
    layer = RPReLU()
    layer.build((None, None, None, 6))
    layer.set_weights([np.zeros(6), expected["param:weight"], np.zeros(6)])
    x, dy = nhwc(expected["x"]), nhwc(expected["dy"])
    deviations, (d_in, d_slope, d_out) = _layer_deviations(layer, x, dy, expected)
    deviations["gradient of the slope"] = deviation(d_slope, expected["grad:weight"])
    # By the chain rule, the shifts' gradients are those of input and output, summed.
    dx = expected["dx"].sum((0, 2, 3))
    deviations["gradient of bias_in"] = deviation(d_in, dx)
    deviations["gradient of bias_out"] = deviation(d_out, expected["dy"].sum((0, 2, 3)))
    parity("prelu", deviations, TOLERANCE)


def test_binary_activation(parity):
    expected = _LAYERS["binary_activation"]
    x = tf.constant(expected["x"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = lq.quantizers.ApproxSign()(x)
    # PyTorch's sign(0) is 0, Larq's is 1; no network depends on it.
    wanted = np.where(expected["x"] == 0, 1.0, expected["y"])
    deviations = {
        "output": deviation(y, wanted),
        "gradient": deviation(tape.gradient(y, x), expected["dx"]),
    }
    parity("binary_activation", deviations, TOLERANCE)


_AGC = golden.load_parts("agc")


def _in_keras_layout(kind: str, value: np.ndarray) -> np.ndarray:
    if kind == "learnable_bias":
        return value.reshape(-1)
    return {4: hwio, 2: np.transpose, 1: np.asarray}[value.ndim](value)


@pytest.mark.parametrize("kind", _AGC)
def test_agc(kind, parity):
    case = {k: _in_keras_layout(kind, value) for k, value in _AGC[kind].items()}
    deviations = {}
    for quantity in sorted(k for k in case if k.startswith("clipped_")):
        clip_factor = float(quantity.removeprefix("clipped_"))
        g, p = tf.constant(case["g"]), tf.constant(case["p"])
        clipped = adaptive_gradient_clip(g, p, clip_factor, eps=1e-3)
        deviations[f"λ={clip_factor}"] = deviation(clipped, case[quantity])
    assert len(deviations) == 4
    parity(f"agc {kind}", deviations, TOLERANCE)


def test_distribution_loss(parity):
    expected = golden.load("losses")
    student = tf.constant(expected["student"])
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = DistributionLoss()(expected["teacher"], student)
    deviations = {
        "loss": deviation(loss, expected["loss"]),
        "gradient": deviation(tape.gradient(loss, student), expected["grad"]),
    }
    parity("distribution loss", deviations, TOLERANCE)


def test_label_smoothing(parity):
    """The paper's third loss is Keras's own."""
    expected = golden.load("losses")
    student = tf.constant(expected["student"])
    one_hot = np.eye(student.shape[1])[expected["labels"]]
    keras_loss = tf.keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.1
    )
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = keras_loss(one_hot, student)
    gradient = tape.gradient(loss, student)
    deviations = {
        "loss": deviation(loss, expected["label_smoothing_loss"]),
        "gradient": deviation(gradient, expected["label_smoothing_grad"]),
    }
    parity("label smoothing", deviations, TOLERANCE)


class TorchAdam(tf.keras.optimizers.Optimizer):
    """PyTorch's Adam: epsilon outside the bias correction, and all in float64."""

    def __init__(self, learning_rate, epsilon):
        super().__init__(name="torch_adam")
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.epsilon = epsilon

    def build(self, var_list):
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._built = True
        self._m = [self.add_variable_from_reference(v, "m") for v in var_list]
        self._v = [self.add_variable_from_reference(v, "v") for v in var_list]

    def update_step(self, gradient, variable):
        index = self._index_dict[self._var_key(variable)]
        m, v = self._m[index], self._v[index]
        step = tf.cast(self.iterations + 1, variable.dtype)
        b1 = tf.constant(0.9, variable.dtype)
        b2 = tf.constant(0.999, variable.dtype)
        m.assign(b1 * m + (1 - b1) * gradient)
        v.assign(b2 * v + (1 - b2) * gradient**2)
        corrected = tf.sqrt(v) / tf.sqrt(1 - b2**step) + self.epsilon
        variable.assign_sub(self.learning_rate / (1 - b1**step) * m / corrected)


def _adam(settings):
    learning_rate, epsilon = settings["learning_rate"], settings["adam_epsilon"]
    if epsilon > 1e-20:
        return TorchAdam(learning_rate, epsilon)
    # Without epsilon Keras's formula is PyTorch's. Numbers of NumPy, because Keras
    # rounds Python's to float32, which is enough to flip a sign in the third step.
    beta_1, beta_2 = np.float64(0.9), np.float64(0.999)
    return tf.keras.optimizers.Adam(learning_rate, beta_1, beta_2, epsilon)


@pytest.fixture
def _free_memory():
    """Models are in reference cycles, and these take gigabytes in float64."""
    yield
    tf.keras.backend.clear_session()
    gc.collect()


@pytest.mark.usefixtures("_free_memory")
@pytest.mark.slow
@modes
@pytest.mark.parametrize("case", golden.TRAJECTORIES)
def test_trajectory(case, mode, parity):
    """Three steps of the official set-up: AGC, L2 on every 4-D tensor, Adam."""
    expected, settings = golden.load(case), golden.INDEX["cases"][case]
    model = golden.build(case)
    keys = golden.trainable_keys(case)
    assert expected["param_keys"].tolist() == keys
    entries = golden.entries(model, keys)
    variables = [entry.variable for entry in entries]
    decayed = [entry.variable for entry in entries if len(entry.shape) == 4]
    optimizer = AdaptiveGradientClipping(
        CoupledWeightDecay(_adam(settings), settings["weight_decay"], decayed),
        clip_factor=settings["clip_factor"],
        exclude=[model.get_layer("classifier")],
    )
    optimizer.build(variables)

    def take_step(x, y):
        with tf.GradientTape() as tape:
            loss = cross_entropy(y, model(x, training=True))
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    take_step = MODES[mode](take_step)
    losses = []
    for step in range(settings["steps"]):
        x, y = golden.images(case, f"input{step}"), golden.labels(case, f"labels{step}")
        with ops.using(mode):
            losses.append(take_step(x, y).numpy())
    probe_logits = model(golden.images(case, "probe"), training=False)
    values = [variable.numpy() for variable in variables]
    norms = np.array([np.linalg.norm(value) for value in values])
    means = np.array([value.mean() for value in values])
    deviations = {
        "losses": deviation(losses, expected["losses"]),
        "logits of the probe": deviation(probe_logits, expected["probe_logits"]),
        "parameters' norms": deviation(norms, expected["param_norm"]),
        "parameters' means": deviation(means, expected["param_mean"]),
    }
    parity(f"{case}, {mode}", deviations, TOLERANCE)
