"""Strictness of `load_torch_state_dict`; that it is right is in `fidelity_test.py`."""

import numpy as np
import pytest
import tensorflow as tf

from larq_nobn import UserError, zoo
from larq_nobn.networks import FAMILIES, MobileNet, ResNet
from larq_nobn.weights.torch.layouts import torch_entries

rng = np.random.default_rng(0)
CONV = "layer1.0.binary_conv.weight"


@pytest.fixture
def build(monkeypatch):
    monkeypatch.setitem(FAMILIES, "tiny", ResNet((1, 2), width=4))
    monkeypatch.setitem(FAMILIES, "tiny_a", MobileNet((2, 4), width=4))

    def build(name="tiny", **kwargs):
        arguments = {"stem": "cifar", "num_classes": 3, "input_shape": (8, 8, 3)}
        return zoo.create_model(name, **{**arguments, **kwargs})

    return build


def _state(model) -> dict[str, np.ndarray]:
    """Random arrays in PyTorch's shapes."""
    entries = torch_entries(model)
    return {key: rng.normal(size=entry.shape) for key, entry in entries.items()}


def _assert_holds(model, state):
    for key, entry in torch_entries(model).items():
        actual = entry.to_torch(entry.variable.numpy())
        np.testing.assert_allclose(actual, state[key], rtol=1e-6)


@pytest.mark.parametrize("name", ["tiny", "tiny_a"])
@pytest.mark.parametrize("norm", ["free", "batch", "none"])
def test_every_weight_is_loaded(build, name, norm):
    model = build(name, norm=norm)
    state = _state(model)
    assert len(state) == len(model.weights)
    zoo.load_torch_state_dict(model, state)
    _assert_holds(model, state)


def test_layouts(build):
    """Once by hand: OIHW to HWIO, and a dense matrix is transposed."""
    model = build()
    state = _state(model)
    zoo.load_torch_state_dict(model, state)
    kernel = model.get_layer("stage1_unit1_conv").get_weights()[0]
    assert np.float32(state[CONV][3, 2, 1, 0]) == kernel[1, 0, 2, 3]
    dense = model.get_layer("classifier").get_weights()[0]
    assert np.float32(state["fc.weight"][2, 5]) == dense[5, 2]


class _Tensor:
    """What a PyTorch tensor shows of itself."""

    def __init__(self, array, dtype="torch.float32", device="cuda:0"):
        self.array, self.dtype, self.device = array, dtype, device

    def detach(self):
        return _Tensor(self.array, self.dtype, self.device)

    def cpu(self):
        return _Tensor(self.array, self.dtype, "cpu")

    def float(self):
        return _Tensor(self.array, "torch.float32", self.device)

    def __array__(self, dtype=None, copy=None):
        if self.device != "cpu" or self.dtype == "torch.bfloat16":
            raise TypeError(f"can't convert {self.dtype} on {self.device} to NumPy")
        return np.asarray(self.array, dtype)


def _flat(state):
    """As liuzechun's ReActNet-A stores its kernels."""
    flat = {}
    for key, value in state.items():
        if value.ndim == 4 and key.endswith(".weight") and "conv1" not in key:
            flat[f"{key}s"] = value.reshape(-1, 1)
        else:
            flat[key] = value
    assert len([key for key in flat if key.endswith("weights")]) > 2
    return flat


_FORMS = {
    "DataParallel": lambda s: {f"module.{key}": value for key, value in s.items()},
    "wrapped": lambda s: {"epoch": 3, "state_dict": s, "best_acc1": 0.7},
    "both": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "flat kernels": _flat,
    "tensors": lambda s: {key: _Tensor(value) for key, value in s.items()},
    "lists": lambda s: {key: value.tolist() for key, value in s.items()},
    "batches tracked": lambda s: {**s, "bn1.num_batches_tracked": np.int64(7)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tiny_a"])
@pytest.mark.parametrize("form", _FORMS)
def test_forms_of_checkpoints(build, name, form):
    model = build(name)
    state = _state(model)
    zoo.load_torch_state_dict(model, _FORMS[form](state))
    _assert_holds(model, state)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "torch.bfloat16"])
def test_half_precision(build, dtype):
    model = build()
    state = _state(model)
    if dtype == "float16":
        state = {key: value.astype(dtype) for key, value in state.items()}
        zoo.load_torch_state_dict(model, state)
    elif dtype == "bfloat16":
        half = tf.bfloat16.as_numpy_dtype
        state = {key: value.astype(half) for key, value in state.items()}
        zoo.load_torch_state_dict(model, state)
        state = {key: value.astype(np.float32) for key, value in state.items()}
    else:
        state = {k: v.astype("float32") for k, v in state.items()}
        tensors = {key: _Tensor(value, dtype) for key, value in state.items()}
        zoo.load_torch_state_dict(model, tensors)
    _assert_holds(model, state)


def _without(state, key):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda s: _without(s, CONV), rf"1 missing: {CONV}\."),
        (lambda s: {**s, "fc2.bias": np.ones(3)}, r"1 unexpected: fc2\.bias\."),
        (
            lambda s: {**s, "fc.weight": np.ones((10, 8))},
            r"1 of another shape: fc\.weight \(expected \(3, 8\), got \(10, 8\)\)",
        ),
        (
            lambda s: {**_without(s, CONV), "conv2.weight": s[CONV], "fc.bias": [1.0]},
            rf"1 missing: {CONV}; 1 unexpected: conv2\.weight; 1 of another shape: fc",
        ),
        (  # Flat, but of another size.
            lambda s: {**s, CONV: s[CONV].reshape(-1, 1)[:-1]},
            rf"1 of another shape: {CONV} \(expected \(4, 4, 3, 3\), got \(143, 1\)\)",
        ),
        (  # The right number of values in another order.
            lambda s: {**s, CONV: s[CONV].transpose(2, 3, 1, 0)},
            rf"1 of another shape: {CONV}",
        ),
        (lambda s: {}, r"\d+ missing: conv1\.weight, .* and \d+ more"),
    ],
    ids=["missing", "extra", "shape", "all three", "flat", "permuted", "empty"],
)
def test_both_sides_of_a_mismatch(build, change, problem):
    model = build()
    before = model.get_weights()
    message = (
        rf"The state dict must have exactly .*{problem}.*Fix: build the model with"
    )
    with pytest.raises(UserError, match=message):
        zoo.load_torch_state_dict(model, change(_state(model)))
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_must_be_finite(build, value):
    model = build()
    before = model.get_weights()
    state = _state(model)
    state["layer2.1.move0.bias"][0, 2] = value
    with pytest.raises(
        UserError, match=r"must be finite.*layer2\.1\.move0\.bias.*Fix: "
    ):
        zoo.load_torch_state_dict(model, state)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_checkpoints_of_another_norm(build, norm):
    state = _state(build(norm=norm))
    with pytest.raises(
        UserError, match=r"missing: .*conv1\.gain.*Fix: build the model wi"
    ):
        zoo.load_torch_state_dict(build(), state)


@pytest.mark.parametrize("state_dict", [None, [1, 2], "model.pth", 5])
def test_state_dicts_are_mappings(build, state_dict):
    message = (
        r"`state_dict` must map names to arrays\. Received: \w+\. Fix: .*weights_only"
    )
    with pytest.raises(UserError, match=message):
        zoo.load_torch_state_dict(build(), state_dict)


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"model": {"conv1.weight": np.ones(3)}, "epoch": 3},
        {"arch": "reactnet"},
        {5: np.ones(3)},
        {"optimizer": [{"lr": 0.1}]},
        {"nothing": None},
    ],
    ids=str,
)
def test_other_contents_of_checkpoints(build, checkpoint):
    message = (
        r"`state_dict` must map names to arrays of numbers\. .*Fix: pass the state d"
    )
    with pytest.raises(UserError, match=message):
        zoo.load_torch_state_dict(build(), checkpoint)


@pytest.mark.parametrize("name", ["xnornet18", "other"])
def test_models_without_a_published_twin(name):
    if name == "other":
        layers = [tf.keras.Input((4,)), tf.keras.layers.Dense(3, name="mine")]
        model = tf.keras.Sequential(layers)
    else:
        kwargs = {"stem": "cifar", "width": 2, "num_classes": 3}
        model = zoo.create_model(name, **kwargs)
    with pytest.raises(
        UserError, match=r"Only models of larq_nobn\.zoo .*Fix: build one"
    ):
        zoo.load_torch_state_dict(model, {})


@pytest.mark.parametrize("error", [TypeError, RuntimeError, NotImplementedError])
def test_tensors_that_numpy_has_not(build, error):
    """What PyTorch raises for float8, quantized, sparse and meta tensors."""

    class Strange:
        dtype = "torch.float8_e4m3fn"

        def detach(self):
            return self

        def cpu(self):
            return self

        def __array__(self, *args, **kwargs):
            raise error("no numpy")

    model = build()
    state = {**_state(model), CONV: Strange()}
    message = f"must hold dense tensors .*{CONV}' of torch.float8_e4m3fn .no numpy"
    with pytest.raises(UserError, match=message):
        zoo.load_torch_state_dict(model, state)
