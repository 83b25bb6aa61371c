import csv
import functools
import inspect

import larq as lq
import numpy as np
import oracles
import pytest
import tensorflow as tf

import larq_nobn
from larq_nobn import UserError
from larq_nobn.callbacks import ClippingReport
from larq_nobn.optimizers import (
    AdaptiveGradientClipping,
    CoupledWeightDecay,
    FusedAdam,
)

keras_optimizers = tf.keras.optimizers
LossScaleOptimizer = tf.keras.mixed_precision.LossScaleOptimizer

rng = np.random.default_rng(0)
x = rng.normal(size=(16, 8)).astype("float32")
y = rng.integers(0, 3, 16)
cross_entropy = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _model() -> tf.keras.Model:
    """The same weights every time; two layers of the same shape."""
    tf.keras.utils.set_random_seed(1)
    return tf.keras.Sequential(
        [
            tf.keras.Input((8,)),
            tf.keras.layers.Dense(8, "relu", name="hidden1"),
            tf.keras.layers.Dense(8, "relu", name="hidden2"),
            tf.keras.layers.Dense(3, name="classifier"),
        ]
    )


def _larq_model() -> tf.keras.Model:
    """Keras names the weights of layers not its own anew when it loads `.keras`."""
    image = tf.keras.Input((8,))
    features = lq.layers.QuantDense(8, name="hidden1")(image)
    features = lq.layers.QuantDense(8, name="hidden2")(features)
    logits = tf.keras.layers.Dense(3, name="classifier")(features)
    return tf.keras.Model(image, logits)


def _clipping(model, optimizer=None, **kwargs) -> AdaptiveGradientClipping:
    kwargs = {"clip_factor": 0.1, "exclude": [model.get_layer("classifier")], **kwargs}
    return AdaptiveGradientClipping(optimizer or keras_optimizers.Adam(1e-2), **kwargs)


def _fit(model, epochs=3, **kwargs):
    kwargs = {"batch_size": 8, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(x, y, epochs=epochs, **kwargs).history


def _trained(optimizer_for=_clipping, epochs=3, **compile_kwargs) -> tf.keras.Model:
    model = _model()
    model.compile(optimizer_for(model), cross_entropy, **compile_kwargs)
    _fit(model, epochs)
    return model


def _assert_same(actual, expected, tolerance=1e-6):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def _gradients(model) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
        loss = cross_entropy(y, model(x, training=True))
    return tape.gradient(loss, model.trainable_variables)


# --- What it computes -----------------------------------------------------------------


@pytest.mark.parametrize("clip_factor", [0.1, 1e-3])
def test_a_step_is_the_formula(clip_factor):
    model = _model()
    before = [v.numpy() for v in model.trainable_variables]
    gradients = [100 * g for g in _gradients(model)]
    optimizer = _clipping(model, keras_optimizers.SGD(1.0), clip_factor=clip_factor)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    for i, (variable, w, g) in enumerate(
        zip(model.trainable_variables, before, gradients, strict=True)
    ):
        g = g.numpy()
        clipped = oracles.agc(g, w, clip_factor)
        assert np.any(clipped != g)
        expected = g if i >= 4 else clipped  # The classifier comes last.
        np.testing.assert_allclose(variable, w - expected, rtol=1e-5, atol=1e-6)


INNER = {
    "SGD": lambda: keras_optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "Adam": lambda: keras_optimizers.Adam(0.01, amsgrad=True),
    "AdamW": lambda: keras_optimizers.AdamW(0.01, weight_decay=0.1),
    "RMSprop": lambda: keras_optimizers.RMSprop(0.01, centered=True),
    "Adagrad": keras_optimizers.Adagrad,
    "Adadelta": keras_optimizers.Adadelta,
    "Adamax": keras_optimizers.Adamax,
    "Nadam": keras_optimizers.Nadam,
    "Ftrl": keras_optimizers.Ftrl,
    "Adafactor": keras_optimizers.Adafactor,
    "Lion": keras_optimizers.Lion,
    "SGD with clipnorm": lambda: keras_optimizers.SGD(0.1, clipnorm=1e-2),
    "SGD with global_clipnorm": lambda: keras_optimizers.SGD(0.1, global_clipnorm=0.1),
    "SGD with clipvalue": lambda: keras_optimizers.SGD(0.1, clipvalue=1e-3),
    "Adam with EMA": lambda: keras_optimizers.Adam(use_ema=True),
    "FusedAdam": FusedAdam,
}


@pytest.mark.parametrize("inner", INNER)
def test_is_the_inner_optimizer_on_clipped_gradients(inner):
    """For every Keras optimizer, its own clipping and decay included, step by step."""
    ours, plain = _model(), _model()
    optimizer, reference = _clipping(ours, INNER[inner]()), INNER[inner]()
    for _ in range(3):
        gradients = _gradients(plain)
        clipped = [
            tf.constant(oracles.agc(g.numpy(), v.numpy(), 0.1)) if i < 4 else g
            for i, (g, v) in enumerate(
                zip(gradients, plain.trainable_variables, strict=True)
            )
        ]
        reference.apply_gradients(zip(clipped, plain.trainable_variables, strict=True))
        optimizer.apply_gradients(
            zip(_gradients(ours), ours.trainable_variables, strict=True)
        )
    _assert_same(ours.get_weights(), plain.get_weights(), 1e-5)
    assert optimizer.iterations == reference.iterations == 3


ADAMS = {
    "plain": {},
    "betas": {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
    "amsgrad": {"amsgrad": True},
    "clipnorm": {"clipnorm": 1e-2},
    "weight_decay": {"weight_decay": 0.1},
    "ema": {"use_ema": True, "ema_overwrite_frequency": 2},
    "schedule": {
        "learning_rate": keras_optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("run_eagerly", [True, False])
@pytest.mark.parametrize("kwargs", ADAMS.values(), ids=ADAMS)
def test_fused_adam_is_adam(kwargs, run_eagerly):
    kwargs = {"learning_rate": 1e-2, **kwargs}
    models = [
        _trained(lambda _, cls=cls: cls(**kwargs), run_eagerly=run_eagerly)
        for cls in (FusedAdam, keras_optimizers.Adam)
    ]
    _assert_same(*(model.get_weights() for model in models), 1e-5)
    ours, theirs = (model.optimizer for model in models)
    _assert_same(ours.variables, theirs.variables, 1e-4)
    assert ours.get_config() == theirs.get_config()
    assert int(ours.iterations) == 6


def test_fused_adam_in_float64_and_with_sparse_gradients():
    values = rng.normal(size=(5, 3))
    gradient = tf.IndexedSlices(tf.constant(rng.normal(size=(2, 3))), [1, 3], (5, 3))
    results = []
    for optimizer in (FusedAdam(0.1), keras_optimizers.Adam(0.1)):
        variables = [tf.Variable(values), tf.Variable(values)]
        for _ in range(3):
            dense = tf.convert_to_tensor(gradient)
            optimizer.apply_gradients(zip([dense, gradient], variables, strict=True))
        results.append(variables)
    _assert_same(*results, 1e-12)


def test_a_larq_model_with_fused_adam():
    """The variables of Larq's layers are wrapped."""
    models = []
    for optimizer in (FusedAdam(1e-2), keras_optimizers.Adam(1e-2)):
        tf.keras.utils.set_random_seed(1)
        models.append(_larq_model())
        models[-1].compile(optimizer, cross_entropy)
        _fit(models[-1])
    _assert_same(*(model.get_weights() for model in models))


def test_coupled_weight_decay_is_the_formula():
    model = _model()
    before = [v.numpy() for v in model.trainable_variables]
    gradients = _gradients(model)
    decayed = [model.layers[0], model.layers[1].kernel]
    optimizer = CoupledWeightDecay(keras_optimizers.SGD(1.0), 0.1, decayed)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    for i, (variable, w, g) in enumerate(
        zip(model.trainable_variables, before, gradients, strict=True)
    ):
        expected = w - (g + 0.1 * w if i < 3 else g)
        np.testing.assert_allclose(variable, expected, rtol=1e-5, atol=1e-6)


def test_decay_inside_clipping_is_not_clipped():
    """The reference's order: clip, decay, optimize."""
    model = _model()
    kernel = model.layers[0].kernel
    w, g = kernel.numpy(), 100 * _gradients(model)[0].numpy()
    decay = CoupledWeightDecay(keras_optimizers.SGD(1.0), 0.5, [kernel])
    AdaptiveGradientClipping(decay, 0.01).apply_gradients([(tf.constant(g), kernel)])
    expected = w - (oracles.agc(g, w, 0.01) + 0.5 * w)
    np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-6)


def test_rank_5_scalars_and_half_precision_variables():
    for shape, dtype in [
        ((2, 2, 2, 3, 4), "float32"),
        ((), "float32"),
        ((3, 4), "half"),
    ]:
        variable = tf.Variable(tf.ones(shape, dtype))
        AdaptiveGradientClipping(keras_optimizers.SGD(1.0), 0.1).apply_gradients(
            [(tf.fill(shape, tf.cast(1000, dtype)), variable)]
        )
        np.testing.assert_allclose(variable.numpy(), 0.9, rtol=1e-3)


# --- A Keras optimizer ----------------------------------------------------------------


def test_compile_and_fit():
    """`fit`, in a graph, does what the steps by hand do."""
    model = _trained(epochs=2)
    by_hand = _model()
    optimizer = _clipping(by_hand)
    for start in (0, 8, 0, 8):
        batch = slice(start, start + 8)
        optimizer.minimize(
            lambda batch=batch: cross_entropy(y[batch], by_hand(x[batch])),
            by_hand.trainable_variables,
        )
    _assert_same(model.get_weights(), by_hand.get_weights(), 1e-5)
    losses = _fit(model, epochs=20)["loss"]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_inner_optimizer_by_name(name):
    optimizer = AdaptiveGradientClipping(name)
    assert optimizer.inner_optimizer.name.lower() == name
    assert isinstance(optimizer, tf.keras.optimizers.Optimizer)


def test_config_covers_the_constructor():
    for optimizer in (
        AdaptiveGradientClipping("adam", 0.5, 1e-2, track_clipping=True, name="a"),
        CoupledWeightDecay("adam", 0.5, [], name="c"),
    ):
        config = optimizer.get_config()
        arguments = {*inspect.signature(type(optimizer).__init__).parameters}
        assert arguments - {"self"} == {*config}
        again = keras_optimizers.deserialize(keras_optimizers.serialize(optimizer))
        assert type(again) is type(optimizer)
        assert again.get_config() == config


def test_learning_rate_scheduler():
    model = _model()
    model.compile(_clipping(model), cross_entropy)
    callback = tf.keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
    history = _fit(model, callbacks=[callback])
    np.testing.assert_allclose(history["lr"], [0.1, 0.05, 0.1 / 3], rtol=1e-6)
    np.testing.assert_allclose(model.optimizer.inner_optimizer.lr, 0.1 / 3, rtol=1e-6)


def test_reduce_lr_on_plateau():
    model = _model()
    model.compile(_clipping(model), cross_entropy)
    callback = tf.keras.callbacks.ReduceLROnPlateau(
        "loss", factor=0.5, patience=1, min_delta=100
    )
    history = _fit(model, callbacks=[callback])
    np.testing.assert_allclose(history["lr"], [0.01, 0.01, 0.005], rtol=1e-6)


def _halving() -> keras_optimizers.schedules.LearningRateSchedule:
    return keras_optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)


@pytest.mark.parametrize("when", ["at construction", "later"])
def test_learning_rate_schedule(when):
    model = _model()
    if when == "later":
        optimizer = _clipping(model)
        optimizer.learning_rate = _halving()
    else:
        optimizer = _clipping(model, keras_optimizers.Adam(_halving()))
    model.compile(optimizer, cross_entropy)
    _fit(model)
    # The rate of the sixth step.
    np.testing.assert_allclose(optimizer.learning_rate, 0.1 * 0.5**5, rtol=1e-6)


def test_learning_rate_is_settable():
    optimizer = AdaptiveGradientClipping("adam")
    for rate in (0.5, np.float32(0.25), tf.constant(0.125)):
        optimizer.learning_rate = rate
        assert optimizer.inner_optimizer.learning_rate == rate
    optimizer.lr = 1
    assert optimizer.lr == 1


def test_ema_of_the_inner_optimizer():
    def ema(model):
        sgd = keras_optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
        return _clipping(model, sgd)

    averaged = _trained(ema, epochs=1)  # Two steps; `fit` writes the average.
    model = _model()
    optimizer = _clipping(model, keras_optimizers.SGD(0.1))
    steps = [model.get_weights()]
    for batch in (slice(0, 8), slice(8, 16)):
        optimizer.minimize(
            lambda batch=batch: cross_entropy(y[batch], model(x[batch])),
            model.trainable_variables,
        )
        steps.append(model.get_weights())
    expected = [
        0.5 * (0.5 * first + 0.5 * second) + 0.5 * third
        for first, second, third in zip(*steps, strict=True)
    ]
    _assert_same(averaged.get_weights(), expected, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kwargs", [{"jit_compile": True}, {"steps_per_execution": 2}], ids=str
)
def test_compile_options(kwargs):
    actual = _trained(lambda model: _clipping(model, track_clipping=True), **kwargs)
    _assert_same(actual.get_weights(), _trained().get_weights(), 1e-5)


# --- Mixed precision ------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*mixed_float16.*")
def test_automatic_loss_scaling():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    model = _trained(lambda model: _clipping(model, track_clipping=True))
    assert isinstance(model.optimizer, LossScaleOptimizer)
    assert isinstance(model.optimizer.inner_optimizer, AdaptiveGradientClipping)
    tf.keras.mixed_precision.set_global_policy("float32")
    expected = _trained()
    _assert_same(model.get_weights(), expected.get_weights(), 5e-2)


def test_explicit_loss_scaling_changes_nothing():
    """The gradients that are clipped are unscaled ones."""
    model = _trained(lambda model: LossScaleOptimizer(_clipping(model)))
    _assert_same(model.get_weights(), _trained().get_weights(), 1e-5)


def test_steps_with_overflow_are_skipped():
    model = _model()
    optimizer = LossScaleOptimizer(_clipping(model, track_clipping=True))
    before = model.get_weights()
    scale = float(optimizer.loss_scale)
    nan = [tf.fill(v.shape, np.float32("nan")) for v in model.trainable_variables]
    scaled = optimizer.get_unscaled_gradients(nan)
    optimizer.get_scaled_loss(tf.constant(0.0))
    optimizer.apply_gradients(zip(scaled, model.trainable_variables, strict=True))
    _assert_same(model.get_weights(), before)
    assert float(optimizer.loss_scale) == scale / 2
    report = optimizer.inner_optimizer.clipping_report()
    assert all(entry == {"fraction": 0, "scale": 1} for entry in report.values())


def test_mixed_bfloat16():
    expected = _trained()
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = _trained()
    assert isinstance(model.optimizer, AdaptiveGradientClipping)
    _assert_same(model.get_weights(), expected.get_weights(), 0.1)


# --- Distribution ---------------------------------------------------------------------


def _with_decay(model) -> AdaptiveGradientClipping:
    decay = CoupledWeightDecay(FusedAdam(1e-2), 0.1, [model.layers[0]])
    return _clipping(model, decay, track_clipping=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*mixed_float16.*")
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_two_replicas_equal_one(policy):
    """Gradients are summed before they are clipped."""
    tf.keras.mixed_precision.set_global_policy(policy)
    one = _trained(_with_decay)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        two = _model()
        two.compile(_with_decay(two), cross_entropy)
    _fit(two)
    tolerance = 1e-5 if policy == "float32" else 2e-2
    _assert_same(two.get_weights(), one.get_weights(), tolerance)

    inner = [model.optimizer for model in (one, two)]
    if policy == "mixed_float16":
        inner = [optimizer.inner_optimizer for optimizer in inner]
    reports = [optimizer.clipping_report(reset=True) for optimizer in inner]
    assert list(reports[0]) == list(reports[1])
    for name, entry in reports[0].items():
        for key, value in entry.items():
            np.testing.assert_allclose(reports[1][name][key], value, atol=0.02)
    assert not any(e["fraction"] for e in inner[1].clipping_report().values())
    _fit(two, epochs=1)
    by_layer = inner[1].layer_clipping_report(two)
    assert [layer for layer, fraction in by_layer.items() if fraction > 0] == [
        "hidden1",
        "hidden2",
    ]


def test_an_inner_optimizer_aggregates_its_own_way():
    """As those of other libraries do, which talk to other machines."""

    class Doubling(tf.keras.optimizers.SGD):
        def aggregate_gradients(self, grads_and_vars):
            return [(2 * gradient, variable) for gradient, variable in grads_and_vars]

    variable = tf.Variable([1.0])
    optimizer = AdaptiveGradientClipping(Doubling(0.5), clip_factor=100.0)
    optimizer.apply_gradients([(tf.constant([0.25]), variable)])
    np.testing.assert_allclose(variable, [0.75])


def test_a_custom_loop_on_two_replicas():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = _model()
        optimizer = _clipping(model)

    def replica_step(images, labels):
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels, model(images)
            )
            loss = tf.reduce_sum(losses) / 16
        optimizer.minimize(loss, model.trainable_variables, tape)

    @tf.function
    def step(images, labels):
        strategy.run(replica_step, (images, labels))

    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    for batch in strategy.experimental_distribute_dataset(batches):
        step(*batch)
    one = _model()
    optimizer_of_one = _clipping(one)
    variables = one.trainable_variables
    optimizer_of_one.minimize(lambda: cross_entropy(y, one(x)), variables)
    _assert_same(model.get_weights(), one.get_weights(), 1e-5)


# --- Unusual gradients ----------------------------------------------------------------


def test_missing_gradients_leave_their_variables():
    model = _model()
    before = model.get_weights()
    gradients = [None, *_gradients(model)[1:]]
    optimizer = _clipping(model, track_clipping=True)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    moved = [np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert moved == [False] + [True] * 5
    report = optimizer.clipping_report()
    assert report["hidden1/kernel:0"] == {"fraction": 0, "scale": 1}
    assert report["hidden1/bias:0"]["fraction"] == 1


def test_no_gradients_at_all():
    assert AdaptiveGradientClipping("adam").apply_gradients([]) == 0
    model = _model()
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        _clipping(model).apply_gradients([(None, v) for v in model.trainable_variables])


@pytest.mark.slow
@pytest.mark.parametrize("run_eagerly", [True, False])
def test_sparse_gradients(run_eagerly):
    """An embedding's gradient; a unit is a column of the whole table."""
    tokens = np.array([[1, 1, 3, 0]] * 4)

    def build():
        tf.keras.utils.set_random_seed(1)
        return tf.keras.Sequential(
            [
                tf.keras.Input((4,), dtype="int32"),
                tf.keras.layers.Embedding(20, 4),
                tf.keras.layers.GlobalAveragePooling1D(),
            ]
        )

    model = build()
    optimizer = AdaptiveGradientClipping(keras_optimizers.SGD(1.0), 0.1)
    model.compile(optimizer, "mse", run_eagerly=run_eagerly)
    model.train_on_batch(tokens, np.ones((4, 4)))

    by_hand = build()
    (table,) = by_hand.trainable_variables
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((by_hand(tokens) - 1) ** 2)
    sparse = tape.gradient(loss, table)
    assert isinstance(sparse, tf.IndexedSlices)
    gradient = tf.convert_to_tensor(sparse).numpy()
    expected = table.numpy() - oracles.agc(gradient, table.numpy(), 0.1)
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5)


# --- Saving ---------------------------------------------------------------------------

FORMATS = ("m.keras", "m.h5", "m")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*mixed_float16.*")
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_training_goes_on_after_saving(name, policy, tmp_path):
    """Same state, same next steps, from every format."""
    tf.keras.mixed_precision.set_global_policy(policy)
    model = _trained(_with_decay, run_eagerly=True)
    model.save(tmp_path / name)
    loaded = larq_nobn.saving.load_model(tmp_path / name, safe_mode=False)
    assert type(loaded.optimizer) is type(model.optimizer)
    _assert_same(
        [v.numpy() for v in loaded.optimizer.variables],
        [v.numpy() for v in model.optimizer.variables],
    )
    loaded.run_eagerly = True
    assert _fit(loaded, epochs=2)["loss"] == _fit(model, epochs=2)["loss"]
    _assert_same(loaded.get_weights(), model.get_weights())


def _states_kept(optimizer_for, tmp_path) -> dict[str, bool]:
    """Per format, whether `tf.keras.models.load_model` restores the state."""
    model = _trained(optimizer_for, epochs=1, run_eagerly=True)
    expected = [v.numpy() for v in model.optimizer.variables]
    kept = {}
    for name in FORMATS:
        model.save(tmp_path / name)
        optimizer = tf.keras.models.load_model(tmp_path / name).optimizer
        actual = [v.numpy() for v in optimizer.variables]
        same = map(np.array_equal, actual, expected)
        kept[name] = len(actual) == len(expected) and all(same)
    return kept


@pytest.mark.slow
def test_keras_keeps_our_state_where_it_keeps_any(tmp_path):
    """`larq_nobn.saving.load_model` is for the rest, and here is why it is needed."""
    adam = _states_kept(lambda model: keras_optimizers.Adam(1e-2), tmp_path)
    assert adam == {"m.keras": True, "m.h5": True, "m": False}
    assert _states_kept(_with_decay, tmp_path) == adam

    scaled_adam = _states_kept(lambda _: LossScaleOptimizer(INNER["Adam"]()), tmp_path)
    assert scaled_adam == {"m.keras": True, "m.h5": False, "m": False}
    scaled = _states_kept(lambda m: LossScaleOptimizer(_with_decay(m)), tmp_path)
    assert scaled == scaled_adam


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "load_model",
    [
        functools.partial(larq_nobn.saving.load_model, safe_mode=False),
        tf.keras.models.load_model,
    ],
)
def test_saving_before_the_first_step(name, load_model, tmp_path):
    """What is excluded is remembered by position, or by name where there is none."""
    model = _model()
    model.compile(_clipping(model), cross_entropy, run_eagerly=True)
    model.save(tmp_path / name)
    loaded = load_model(tmp_path / name)
    loaded.run_eagerly = True
    _fit(loaded, epochs=1)
    _fit(model, epochs=1)
    _assert_same(loaded.get_weights(), model.get_weights())
    assert loaded.optimizer.get_config()["exclude"] == [4, 5]


def test_ambiguous_names_before_the_first_step(tmp_path):
    """Two weights of the same name and shape, as `.keras` files restore them."""
    model = _larq_model()
    optimizer = _clipping(model, exclude=[model.get_layer("hidden2")])
    model.compile(optimizer, cross_entropy)
    model.save(tmp_path / "ambiguous.keras")
    with pytest.raises(ValueError, match=r"must be found once.*found 2 times. Fix: lo"):
        tf.keras.models.load_model(tmp_path / "ambiguous.keras")
    optimizer.build(model.trainable_variables)  # The fix that the message gives.
    model.save(tmp_path / "built.keras")
    loaded = tf.keras.models.load_model(tmp_path / "built.keras")
    assert loaded.optimizer.get_config()["exclude"] == [2, 3]


def test_checkpoint(tmp_path):
    model = _trained(_with_decay, run_eagerly=True)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    path = checkpoint.save(tmp_path / "checkpoint")
    again = _model()
    again.compile(_with_decay(again), cross_entropy, run_eagerly=True)
    checkpoint = tf.train.Checkpoint(model=again, optimizer=again.optimizer)
    status = checkpoint.restore(path)
    _fit(again, epochs=1)
    status.assert_consumed()
    _fit(model, epochs=1)
    _assert_same(again.get_weights(), model.get_weights())


@pytest.mark.slow
def test_backup_and_restore(tmp_path):
    """Keras's callback for resuming an interrupted `fit`."""

    class _InterruptedError(Exception):
        pass

    def interrupt(epoch, logs):
        if epoch == 1:
            raise _InterruptedError

    expected = _trained(epochs=4)
    model = _model()
    model.compile(_clipping(model), cross_entropy)
    backup = tf.keras.callbacks.BackupAndRestore(tmp_path)
    failing = tf.keras.callbacks.LambdaCallback(on_epoch_begin=interrupt)
    with pytest.raises(_InterruptedError):
        _fit(model, epochs=4, callbacks=[backup, failing])
    again = _model()
    again.compile(_clipping(again), cross_entropy)
    _fit(again, epochs=4, callbacks=[tf.keras.callbacks.BackupAndRestore(tmp_path)])
    _assert_same(again.get_weights(), expected.get_weights(), 1e-5)


# --- Attributes of the inner optimizer ------------------------------------------------

WRAPPED = {
    "clipping": lambda inner: AdaptiveGradientClipping(inner, clip_factor=1e3),
    "decay": lambda inner: CoupledWeightDecay(inner, 0.1, []),
    "nested": lambda inner: AdaptiveGradientClipping(
        CoupledWeightDecay(inner, 0.1, []), clip_factor=1e3
    ),
    "twice": lambda inner: AdaptiveGradientClipping(
        AdaptiveGradientClipping(inner, clip_factor=1e3), clip_factor=1e4
    ),
}
WITH_DECAY = {
    "Adam": keras_optimizers.Adam,
    "AdamW": keras_optimizers.AdamW,
    "SGD": keras_optimizers.SGD,
    "FusedAdam": FusedAdam,
}
SETTINGS = {
    "weight_decay": 0.5,
    "clipnorm": 1e-3,
    "global_clipnorm": 1e-3,
    "clipvalue": 1e-3,
    "use_ema": True,
    "ema_momentum": 0.5,
    "ema_overwrite_frequency": 2,
    "jit_compile": True,
}


def _two_steps(optimizer, model):
    """Weights after two steps, and with the moving averages in their place."""
    results = []
    for _ in range(2):
        gradients = _gradients(model)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
    results += model.get_weights()
    optimizer.finalize_variable_values(model.trainable_variables)
    return results + model.get_weights()


@pytest.mark.parametrize("inner", WITH_DECAY)
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_excluded_from_weight_decay(wrapper, inner):
    plain, wrapped = (WITH_DECAY[inner](0.1, weight_decay=0.5) for _ in range(2))
    wrapped = WRAPPED[wrapper](wrapped)
    assert wrapped.weight_decay == 0.5
    results = []
    for optimizer in (plain, wrapped):
        model = _model()
        kernel = model.layers[0].kernel
        optimizer.exclude_from_weight_decay(var_list=[kernel], var_names=["bias"])
        zeros = [tf.zeros_like(v) for v in model.trainable_variables]
        before = model.get_weights()
        optimizer.apply_gradients(zip(zeros, model.trainable_variables, strict=True))
        moved = [
            np.any(a != b) for a, b in zip(model.get_weights(), before, strict=True)
        ]
        assert moved == [False, False, True, False, True, False]
        results.append(model.get_weights())
    _assert_same(*results)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("inner", ["AdamW", "FusedAdam"])
@pytest.mark.parametrize("wrapper", ["clipping", "decay", "nested"])
def test_settings_reach_the_inner_optimizer(wrapper, inner, setting):
    """Set after construction, as Keras allows."""
    results = []
    for wrap in (lambda optimizer: optimizer, WRAPPED[wrapper]):
        plain = WITH_DECAY[inner](0.1)
        optimizer = wrap(plain)
        if setting.startswith("ema_"):
            optimizer.use_ema = True
        setattr(optimizer, setting, SETTINGS[setting])
        assert getattr(optimizer, setting) == SETTINGS[setting]
        assert getattr(plain, setting) == SETTINGS[setting]
        model = _model()
        results.append(_two_steps(optimizer, model))
    _assert_same(*results)


def test_what_keras_documents_reaches_the_inner_optimizer():
    """Own are only what this class sets, and what must see all gradients."""
    inner = keras_optimizers.SGD(0.1, momentum=0.5)
    optimizer = WRAPPED["nested"](inner)
    for name, value in vars(inner).items():
        if not name.startswith("_") and name != "name":
            assert getattr(optimizer, name) is value
    optimizer.momentum = 0.9
    optimizer.learning_rate = 0.2
    assert inner.momentum == 0.9
    assert inner.learning_rate is optimizer.lr
    np.testing.assert_allclose(inner.learning_rate, 0.2)
    documented = {
        name
        for name, value in vars(keras_optimizers.Optimizer.__base__).items()
        if not name.startswith("_") and not isinstance(value, classmethod)
    }
    own = {name for cls in type(optimizer).__mro__[:3] for name in vars(cls)}
    # It applies what `compute_gradients` gives.
    assert documented - own == {"minimize"}
    slot = optimizer.add_variable([2], name="slot")
    assert inner.variables[-1] is slot
    with pytest.raises(AttributeError, match="no attribute 'momentums'"):
        optimizer.momentums  # noqa: B018


def test_attributes_of_the_wrapper_are_its_own():
    inner = AdaptiveGradientClipping("sgd", clip_factor=0.5, name="inner")
    outer = AdaptiveGradientClipping(inner, clip_factor=0.1, name="outer")
    assert (inner.clip_factor, outer.clip_factor) == (0.5, 0.1)
    outer.clip_factor = 0.2
    outer.name = "other"
    assert (inner.clip_factor, inner.name) == (0.5, "inner")
    decay = CoupledWeightDecay(keras_optimizers.AdamW(weight_decay=0.5), 0.1, [])
    assert (decay.weight_decay, decay.get_config()["weight_decay"]) == (0.5, 0.1)


# --- Selection ------------------------------------------------------------------------


def test_exclude_variables_and_layers():
    model = _model()
    exclude = [model.layers[0].kernel, model.get_layer("classifier")]
    optimizer = _clipping(model, keras_optimizers.SGD(1.0), exclude=exclude)
    before = [v.numpy() for v in model.trainable_variables]
    gradients = [10 * g for g in _gradients(model)]
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    untouched = [
        np.allclose(v, w - g, rtol=1e-5, atol=1e-5)
        for v, w, g in zip(model.trainable_variables, before, gradients, strict=True)
    ]
    assert untouched == [True, False, False, False, True, True]
    assert optimizer.get_config()["exclude"] == [0, 4, 5]
    assert type(optimizer.get_config()["exclude"]) is list


def test_frozen_excluded_layers(tmp_path):
    model = _model()
    model.get_layer("classifier").trainable = False
    exclude = [model.get_layer("classifier"), model.layers[0]]
    model.compile(_clipping(model, exclude=exclude), cross_entropy, run_eagerly=True)
    _fit(model, epochs=1)
    assert model.optimizer.get_config()["exclude"] == [0, 1]
    model.save(tmp_path / "m.keras")
    loaded = tf.keras.models.load_model(tmp_path / "m.keras")
    loaded.run_eagerly = True
    _fit(loaded, epochs=1)
    _fit(model, epochs=1)
    _assert_same(loaded.get_weights(), model.get_weights())


def test_layers_that_are_built_later():
    """A Sequential model without an input shape has no variables when compiled."""
    classifier = tf.keras.layers.Dense(3)
    model = tf.keras.Sequential([tf.keras.layers.Dense(8), classifier])
    optimizer = AdaptiveGradientClipping("adam", exclude=[classifier])
    model.compile(optimizer, cross_entropy, run_eagerly=True)
    model.train_on_batch(x, y)
    assert optimizer.get_config()["exclude"] == [2, 3]


def _foreign():
    return {
        "a layer": tf.keras.layers.Dense(3, name="stranger"),
        "a variable": tf.Variable(tf.ones([8, 3]), name="stranger"),
    }


@pytest.mark.parametrize("argument", ["exclude", "variables", "units"])
@pytest.mark.parametrize("kind", _foreign())
def test_selections_of_another_model_are_an_error(argument, kind):
    stranger = _foreign()[kind]
    if isinstance(stranger, tf.keras.layers.Layer):
        stranger.build((None, 8))
    model = _model()
    chosen = [model.layers[0], stranger]
    optimizer = {
        "exclude": lambda: AdaptiveGradientClipping("sgd", exclude=chosen),
        "variables": lambda: CoupledWeightDecay("sgd", 0.1, chosen),
        "units": lambda: AdaptiveGradientClipping(
            "sgd", units=[(item, -1) for item in chosen]
        ),
    }[argument]()
    model.compile(optimizer, cross_entropy, run_eagerly=True)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"`{argument}` must .*'stranger.*Fix: "):
            _fit(model, epochs=1)


def test_layers_that_were_never_built_are_an_error():
    model, stranger = _model(), tf.keras.layers.Dense(3, name="stranger")
    optimizer = AdaptiveGradientClipping("sgd", exclude=[stranger])
    with pytest.raises(UserError, match=r"'stranger', which has not been called yet"):
        optimizer.get_config()
    model.compile(optimizer, cross_entropy, run_eagerly=True)
    with pytest.raises(UserError, match=r"'stranger', which has not been called yet"):
        _fit(model, epochs=1)


def test_layers_without_variables_and_frozen_variables_may_be_excluded():
    model = _model()
    frozen = tf.Variable(1.0, trainable=False)
    flatten = tf.keras.layers.Flatten()
    flatten(model.output)
    optimizer = AdaptiveGradientClipping(
        "sgd", exclude=[flatten, frozen, model.layers[0]]
    )
    optimizer.build(model.trainable_variables)
    assert optimizer.get_config()["exclude"] == [0, 1]


# --- Units ----------------------------------------------------------------------------

L = tf.keras.layers
DEPTHWISE = {
    "DepthwiseConv1D": (lambda: L.DepthwiseConv1D(3, depth_multiplier=2), (8, 4)),
    "DepthwiseConv2D": (lambda: L.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 4)),
    "SeparableConv1D": (lambda: L.SeparableConv1D(5, 3), (8, 4)),
    "SeparableConv2D": (lambda: L.SeparableConv2D(5, 3), (8, 8, 4)),
    "QuantDepthwiseConv2D": (lambda: lq.layers.QuantDepthwiseConv2D(3), (8, 8, 4)),
    "QuantSeparableConv1D": (lambda: lq.layers.QuantSeparableConv1D(5, 3), (8, 4)),
    "QuantSeparableConv2D": (lambda: lq.layers.QuantSeparableConv2D(5, 3), (8, 8, 4)),
}


def _one_step(optimizer, layer):
    """Gradients of the layer's weights, and the steps that were taken."""
    before = [v.numpy() for v in layer.trainable_variables]
    gradients = [rng.normal(size=v.shape).astype("float32") for v in before]
    for gradient in gradients[:1]:
        gradient[..., 0] *= 100
    pairs = zip(map(tf.constant, gradients), layer.trainable_variables, strict=True)
    optimizer.apply_gradients(pairs)
    after = [v.numpy() for v in layer.trainable_variables]
    return before, gradients, [b - a for b, a in zip(before, after, strict=True)]


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("case", DEPTHWISE)
def test_units_of_depthwise_kernels(case, in_graph):
    """Each channel and multiplier has a filter of its own."""
    build, shape = DEPTHWISE[case]
    layer = build()
    layer.build((None, *shape))
    optimizer = AdaptiveGradientClipping(
        keras_optimizers.SGD(1.0), 0.5, track_clipping=True
    )
    if in_graph:
        optimizer.build(layer.trainable_variables)
        optimizer.apply_gradients = tf.function(optimizer.apply_gradients)
    before, gradients, steps = _one_step(optimizer, layer)
    kernels = [v.name.split("/")[-1] for v in layer.trainable_variables]
    assert kernels[0] == "depthwise_kernel:0"
    for i, (w, g, step) in enumerate(zip(before, gradients, steps, strict=True)):
        axis = tuple(range(w.ndim - 2)) if i == 0 else None
        expected = oracles.agc(g, w, 0.5, axis=axis)
        np.testing.assert_allclose(step, expected, rtol=1e-4, atol=1e-5)
    # A bias is one unit; each kernel has as many as it has filters.
    model = tf.keras.Sequential([tf.keras.Input(shape), layer])
    fractions = [r["fraction"] for r in optimizer.clipping_report().values()]
    counts = [np.prod(before[0].shape[-2:])] + [
        w.shape[-1] if w.ndim > 1 else 1 for w in before[1:]
    ]
    (fraction,) = optimizer.layer_clipping_report(model).values()
    expected = np.average(fractions, weights=counts)
    np.testing.assert_allclose(fraction, expected, rtol=1e-5)


def test_a_weak_channel_of_a_depthwise_kernel_takes_small_steps():
    """By a bare variable of Keras's name, too."""
    kernel = np.ones((3, 3, 2, 1), "float32") / 3 * [[[[0.01], [1.0]]]]
    variable = tf.Variable(kernel.astype("float32"), name="depthwise_kernel")
    optimizer = AdaptiveGradientClipping(keras_optimizers.SGD(1.0), 1.0)
    optimizer.apply_gradients([(tf.fill((3, 3, 2, 1), 10.0), variable)])
    steps = np.linalg.norm((kernel - variable.numpy()).reshape(9, 2), axis=0)
    np.testing.assert_allclose(steps, [0.01, 1.0], rtol=1e-5)


UNITS = {
    "Conv1DTranspose": (lambda: L.Conv1DTranspose(5, 3), (8, 4), -2, (0, 2)),
    "Conv2DTranspose": (lambda: L.Conv2DTranspose(5, 3), (8, 8, 4), -2, (0, 1, 3)),
    "Conv3DTranspose": (lambda: L.Conv3DTranspose(5, 3), (4, 4, 4, 2), 3, (0, 1, 2, 4)),
    "QuantConv2DTranspose": (
        lambda: lq.layers.QuantConv2DTranspose(5, 3),
        (8, 8, 4),
        [2],
        (0, 1, 3),
    ),
    "EinsumDense": (
        lambda: L.EinsumDense("bi,ihd->bhd", (2, 3), bias_axes="hd"),
        (4,),
        (-1, 1),
        (0,),
    ),
    "Dense, one unit": (lambda: L.Dense(5), (4,), (), (0, 1)),
}


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("case", UNITS)
def test_units_by_axes(case, in_graph):
    build, shape, axes, axis = UNITS[case]
    layer = build()
    layer.build((None, *shape))
    optimizer = AdaptiveGradientClipping(
        keras_optimizers.SGD(1.0), 0.5, units={layer: axes}
    )
    if in_graph:
        optimizer.build(layer.trainable_variables)
        optimizer.apply_gradients = tf.function(optimizer.apply_gradients)
    before, gradients, steps = _one_step(optimizer, layer)
    expected = oracles.agc(gradients[0], before[0], 0.5, axis=axis)
    np.testing.assert_allclose(steps[0], expected, rtol=1e-4, atol=1e-5)
    expected = oracles.agc(gradients[1], before[1], 0.5)
    np.testing.assert_allclose(steps[1], expected, rtol=1e-4, atol=1e-5)


def test_units_of_attention_and_of_small_variables():
    """Per head and output, by `ref()` as TensorFlow's variables are not hashable."""
    layer = L.MultiHeadAttention(2, 3)
    query = tf.ones((1, 4, 6))
    layer(query, query)
    vector = tf.Variable(tf.ones(3))
    kernels = [v for v in layer.trainable_variables if v.shape.rank == 3]
    heads = [v for v in kernels if v.shape[0] == 6]
    units = {v.ref(): (1, 2) for v in heads} | {vector.ref(): 0}
    optimizer = AdaptiveGradientClipping(keras_optimizers.SGD(1.0), 0.5, units=units)
    variables = [*heads, vector]
    before = [v.numpy() for v in variables]
    gradients = [rng.normal(size=v.shape).astype("float32") for v in before]
    optimizer.apply_gradients(zip(map(tf.constant, gradients), variables, strict=True))
    for v, w, g in zip(variables, before, gradients, strict=True):
        axis = 0 if v is not vector else ()
        step = oracles.agc(g, w, 0.5, axis=axis)
        np.testing.assert_allclose(w - v.numpy(), step, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("when", ["before the first step", "later"])
def test_units_are_saved(when, tmp_path):
    image = tf.keras.Input((4, 4, 3))
    outputs = L.Conv2DTranspose(3, 3, name="up")(L.DepthwiseConv2D(1)(image))
    model = tf.keras.Model(image, L.GlobalAveragePooling2D()(outputs))
    optimizer = AdaptiveGradientClipping(
        keras_optimizers.SGD(1.0), units={model.get_layer("up"): -2}
    )
    model.compile(optimizer, "mse", run_eagerly=True)
    data = rng.normal(size=(4, 4, 4, 3)), np.zeros((4, 3))
    if when == "later":
        model.train_on_batch(*data)
        assert optimizer.get_config()["units"] == [[2, [2]]]
    for name in ("m.keras", "m.h5"):
        model.save(tmp_path / name)
        loaded = tf.keras.models.load_model(tmp_path / name)
        loaded.run_eagerly = True
        twin = tf.keras.models.clone_model(model)
        twin.set_weights(model.get_weights())
        again = AdaptiveGradientClipping(
            keras_optimizers.SGD(1.0), units={twin.get_layer("up"): -2}
        )
        twin.compile(again, "mse", run_eagerly=True)
        for trained in (loaded, twin):
            trained.train_on_batch(*data)
        assert loaded.optimizer.get_config()["units"] == [[2, [2]]]
        _assert_same(loaded.get_weights(), twin.get_weights())


# --- Reports --------------------------------------------------------------------------


def test_clipping_report():
    """Counted by hand over two steps."""
    model = _model()
    optimizer = _clipping(model, keras_optimizers.SGD(0.1), track_clipping=True)
    fractions, scales = [], []
    for _ in range(2):
        w, g = model.layers[0].kernel.numpy(), _gradients(model)
        clipped = oracles.agc(g[0].numpy(), w, 0.1)
        norm, clipped_norm = (np.linalg.norm(a, axis=0) for a in (g[0], clipped))
        # A unit whose gradient is zero (a dead ReLU) is not clipped.
        scale = np.divide(clipped_norm, norm, out=np.ones(8), where=norm > 0)
        fractions.append(np.mean(scale < 1 - 1e-6))
        scales.append(np.mean(scale))
        optimizer.apply_gradients(zip(g, model.trainable_variables, strict=True))
    report = optimizer.clipping_report(reset=True)
    hidden = [f"hidden{i}/{kind}:0" for i in (1, 2) for kind in ("kernel", "bias")]
    assert list(report) == hidden
    assert 0 < np.mean(fractions) < 1
    entry = report["hidden1/kernel:0"]
    np.testing.assert_allclose(entry["fraction"], np.mean(fractions), rtol=1e-5)
    np.testing.assert_allclose(entry["scale"], np.mean(scales), rtol=1e-5)
    # Per layer: the kernel's eight units and the bias, which is one.
    optimizer.apply_gradients(zip(g, model.trainable_variables, strict=True))
    by_layer = optimizer.layer_clipping_report(model)
    report = optimizer.clipping_report()
    kernel, bias = (report[name]["fraction"] for name in hidden[:2])
    assert list(by_layer) == ["hidden1", "hidden2"]
    np.testing.assert_allclose(by_layer["hidden1"], (8 * kernel + bias) / 9, rtol=1e-5)


def test_report_of_variables_with_equal_names(tmp_path):
    """Models loaded from `.keras` files have such."""
    model = _larq_model()
    model.compile(_with_decay(model), cross_entropy, run_eagerly=True)
    _fit(model, epochs=1)
    model.save(tmp_path / "m.keras")
    loaded = tf.keras.models.load_model(tmp_path / "m.keras")
    names = ["kernel:0", "bias:0", "kernel:0 (2)", "bias:0 (3)"]
    assert list(loaded.optimizer.clipping_report()) == names
    assert list(loaded.optimizer.layer_clipping_report(loaded)) == [
        "hidden1",
        "hidden2",
    ]


def test_no_report_without_counting():
    optimizer = AdaptiveGradientClipping("adam")
    with pytest.raises(
        ValueError, match=r"track_clipping=False. Fix: AdaptiveGradient"
    ):
        optimizer.clipping_report()


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", [None, LossScaleOptimizer, "decay"])
def test_clipping_report_callback(wrapper, tmp_path):
    model = _model()
    optimizer = _clipping(model, track_clipping=True, clip_factor=0.02)
    if wrapper == "decay":
        optimizer = CoupledWeightDecay(optimizer, 0.0, [])
    elif wrapper:
        optimizer = wrapper(optimizer)
    model.compile(optimizer, cross_entropy)
    callbacks = [ClippingReport(), tf.keras.callbacks.CSVLogger(tmp_path / "log.csv")]
    if wrapper is None:
        callbacks.append(tf.keras.callbacks.TensorBoard(tmp_path / "tensorboard"))
    history = _fit(model, epochs=2, callbacks=callbacks, validation_data=(x, y))
    assert {"agc/hidden1", "agc/hidden2"} <= {*history}
    assert "agc/classifier" not in history
    for layer in ("agc/hidden1", "agc/hidden2"):
        assert len(history[layer]) == 2
        assert all(0 < value <= 1 for value in history[layer])
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = [float(row["agc/hidden1"]) for row in rows]
    np.testing.assert_allclose(logged, history["agc/hidden1"], rtol=1e-6)
    if wrapper is None:
        assert "epoch_agc/hidden1" in _tensorboard_tags(tmp_path / "tensorboard")


def _tensorboard_tags(path) -> set[str]:
    return {
        value.tag
        for file in path.rglob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }


def test_callback_looks_into_nested_models():
    inner = tf.keras.Sequential(
        [tf.keras.Input((8,)), tf.keras.layers.Dense(3)], "body"
    )
    model = tf.keras.Sequential([tf.keras.Input((8,)), inner])
    model.compile(
        AdaptiveGradientClipping("sgd", 1e-3, track_clipping=True),
        cross_entropy,
        run_eagerly=True,
    )
    history = _fit(model, epochs=1, callbacks=[ClippingReport()])
    assert history[f"agc/{inner.layers[0].name}"] == [1.0]


@pytest.mark.parametrize(
    ("optimizer", "received"),
    [
        ("adam", "Adam"),
        (lambda: LossScaleOptimizer(keras_optimizers.Adam()), "LossScaleOptimizerV3"),
        (
            lambda: AdaptiveGradientClipping("adam"),
            r"AdaptiveGradientClipping\(track_clipping=False\)",
        ),
    ],
)
def test_callback_needs_a_counting_optimizer(optimizer, received):
    model = _model()
    model.compile(optimizer() if callable(optimizer) else optimizer, cross_entropy)
    message = (
        rf"ClippingReport needs .*Received: {received}\. Fix: AdaptiveGradientClip"
    )
    with pytest.raises(UserError, match=message):
        _fit(model, callbacks=[ClippingReport()])


# --- Wrong arguments ------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -0.02, np.nan, np.inf, "0.02", True, None])
def test_clip_factor_must_be_positive(value):
    with pytest.raises(
        ValueError, match=r"`clip_factor` must be .*Fix: 0\.02 is the p"
    ):
        AdaptiveGradientClipping("adam", clip_factor=value)


def test_eps_must_be_positive():
    with pytest.raises(
        ValueError, match=r"`eps` must be a positive .*Fix: 1e-3 is the"
    ):
        AdaptiveGradientClipping("adam", eps=0)


@pytest.mark.parametrize("value", [-1e-5, float("nan")])
def test_weight_decay_must_not_be_negative(value):
    with pytest.raises(
        ValueError,
        match=r"`weight_decay` must be a number, 0",
    ):
        CoupledWeightDecay("adam", value, [])


@pytest.mark.parametrize("optimizer", [0.1, None, keras_optimizers.Adam])
def test_optimizer_must_be_one(optimizer):
    with pytest.raises(
        TypeError, match=r"must be a tf\.keras\.optimizers\.Optim.*pass"
    ):
        AdaptiveGradientClipping(optimizer)


def test_legacy_optimizers_are_refused():
    with pytest.raises(
        TypeError, match=r"Received: .*legacy.*Fix: use the class of the"
    ):
        AdaptiveGradientClipping(keras_optimizers.legacy.Adam())


_WRAPPERS = {
    AdaptiveGradientClipping: lambda inner: AdaptiveGradientClipping(inner),
    CoupledWeightDecay: lambda inner: CoupledWeightDecay(inner, 0.1, []),
}


@pytest.mark.parametrize("wrapper", _WRAPPERS)
def test_loss_scaling_goes_outside(wrapper):
    inner = LossScaleOptimizer(keras_optimizers.Adam())
    message = rf"unscaled.*Fix: LossScaleOptimizer\({wrapper.__name__}\("
    with pytest.raises(TypeError, match=message):
        _WRAPPERS[wrapper](inner)


@pytest.mark.parametrize(
    "value", ["0.1", "fast", None, [0.1], True, object(), np.nan, np.inf]
)
def test_learning_rate_must_be_a_number_or_schedule(value):
    message = r"`learning_rate` must be a finite .*Schedule.*Fix: for example 5e-4"
    with pytest.raises(TypeError, match=message):
        AdaptiveGradientClipping("adam").learning_rate = value


def test_learning_rate_of_the_inner_optimizer_must_be_a_number():
    """Keras takes this one, and fails in the first step."""
    with pytest.raises(TypeError, match=r"`learning_rate` must be a finite .*\[0\.1\]"):
        AdaptiveGradientClipping(keras_optimizers.Adam([0.1]))


_SELECTIONS = {
    "exclude": lambda value: AdaptiveGradientClipping("adam", exclude=value),
    "variables": lambda value: CoupledWeightDecay("adam", 0.1, variables=value),
}


@pytest.mark.parametrize("argument", _SELECTIONS)
def test_selections_are_lists(argument):
    message = rf"`{argument}` must be a list .*Fix: wrap it, {argument}=\[\.\.\.\], or"
    for value in ("classifier", tf.keras.layers.Dense(3), tf.Variable(1.0), None, 1):
        with pytest.raises(TypeError, match=message):
            _SELECTIONS[argument](value)


@pytest.mark.parametrize("item", ["classifier", 0.5, None])
def test_selections_hold_variables_and_layers(item):
    message = r"`exclude` must hold variables or layers.*Fix: pass .*get_layer"
    with pytest.raises(TypeError, match=message):
        AdaptiveGradientClipping("adam", exclude=[item])


@pytest.mark.parametrize("value", [None, 3, "kernel", {"kernel": -1}, [1, 2]])
def test_units_map_layers_to_axes(value):
    with pytest.raises(TypeError, match=r"`units` must (map|hold) .*Fix: "):
        AdaptiveGradientClipping("adam", units=value)
    with pytest.raises(TypeError, match=r"`units` must map .*Fix: for example"):
        AdaptiveGradientClipping("adam", units={tf.keras.layers.Dense(3): "last"})


@pytest.mark.parametrize("axes", [2, -3, (0, 0), (1, -1)])
def test_units_are_axes_of_their_variables(axes):
    model = _model()
    optimizer = AdaptiveGradientClipping("sgd", units={model.layers[0]: axes})
    message = r"`units` must hold axes .*'hidden1/kernel:0' of shape \(8, 8\).*Fix: "
    with pytest.raises(UserError, match=message):
        optimizer.build(model.trainable_variables)


@pytest.mark.parametrize("wrapper", _WRAPPERS)
def test_optimizers_without_a_gradient_step_are_refused(wrapper):
    with pytest.raises(TypeError, match=rf"optimizers.Bop. Fix: .*{wrapper.__name__}"):
        _WRAPPERS[wrapper](lq.optimizers.Bop())


def test_names_of_optimizers_must_be_known():
    with pytest.raises(UserError, match=r"Received: 'adm'. Fix: for example 'adam'"):
        AdaptiveGradientClipping("adm")


def test_transformations_must_define_transform():
    base = AdaptiveGradientClipping.__base__
    with pytest.raises(NotImplementedError, match="must define `transform`"):
        base("adam", "name").transform(tf.ones(1), tf.Variable([1.0]))
