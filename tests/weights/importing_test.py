import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import torch_files
from small import liuzechun, random_state, small_card

from larq_nobn import UserError, zoo
from larq_nobn.cli import main
from larq_nobn.datasets import class_names
from larq_nobn.networks import NetworkSpec
from larq_nobn.weights.bundle import readme
from larq_nobn.weights.card import read_card
from larq_nobn.weights.torch import importing, reading
from larq_nobn.weights.torch.importing import check_against_oracle, import_checkpoint
from larq_nobn.weights.torch.oracle import Variant, forward

CIFAR = {"stem": "cifar", "num_classes": 10, "width": 8}


def state_of(**arguments):
    return random_state(zoo.create_model(**arguments))


@pytest.fixture(scope="module")
def state():
    """Of a small official BN-free ReActNet-18."""
    return state_of(name="reactnet18", **CIFAR)


@pytest.fixture
def save(tmp_path):
    def save(content):
        path = tmp_path / "checkpoint.npz"
        np.savez(path, **content)
        return path

    return save


ARGUMENTS = {"model": "reactnet18", "norm": "free", "dataset": "cifar10"}
OFFICIAL, LIUZECHUN, AB = importing.PUBLISHERS.values()

# What is imported, how it has to be asked for, the card's network, and its source.
CASES = {
    "official": (
        {"name": "reactnet18", "norm": "batch", **CIFAR},
        {"norm": "batch"},
        {},
        OFFICIAL,
    ),
    "official, step 1": (
        {"name": "reactnet18", "norm": "none", "binary_weights": False, **CIFAR},
        {"norm": "none", "binary_weights": False},
        {},
        OFFICIAL,
    ),
    "liuzechun's 18": (
        {
            "name": "reactnet18",
            "norm": "batch",
            "binary_downsample": False,
            "width": 8,
            "num_classes": 10,
        },
        {"norm": "batch", "source": "reactnet"},
        {},
        LIUZECHUN,
    ),
    "liuzechun's A": (
        {"name": "reactnet_a", "norm": "batch", "width": 8, "num_classes": 10},
        {"model": "reactnet_a", "norm": "batch"},
        {"stem": "imagenet"},
        LIUZECHUN,
    ),
    "A&B": (
        {"name": "abnet18", **CIFAR},
        {"model": "abnet18", "alpha": 0.3},
        {"stem": "cifar", "alpha": 0.3},
        AB,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_import(case, save, tmp_path):
    """The command's work, up to the weights in the bundle's network."""
    arguments, options, network, source = CASES[case]
    state = state_of(**arguments)
    stored = liuzechun(state) if case == "liuzechun's A" else state
    folder = import_checkpoint(
        save({f"module.{key}": value for key, value in stored.items()}),
        **{**ARGUMENTS, **options},
        out=tmp_path / "zoo",
    )
    card = read_card(folder / "card.json")
    assert card.origin["url"] == source.url
    assert card.license == source.license
    assert card.redistributable == bool(source.license)
    for name, value in {"width": 8, "input_shape": (32, 32, 3), **network}.items():
        assert getattr(card.network, name) == value
    # A&B BNN normalizes CIFAR by ImageNet's statistics.
    assert card.mean == (
        (0.485, 0.456, 0.406) if source is AB else (0.4914, 0.4822, 0.4465)
    )
    kinds = {"full"} if case == "official, step 1" else {"packed", "full"}
    assert set(card.files) == kinds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "name", "dataset", "expected"),
    [
        # The authors' ReActNet-A has one stem for all sizes of images.
        (OFFICIAL, "reactnet_a", "cifar10", "imagenet"),
        (LIUZECHUN, "reactnet_a", "imagenet", "imagenet"),
        (AB, "abnet_a", "cifar10", "cifar"),
        (AB, "abnet_a", "imagenet", "imagenet"),
    ],
)
def test_stems_of_reactnet_a(source, name, dataset, expected):
    classes = len(class_names(dataset))
    state = {
        "feature.0.conv1.weight": np.zeros((8, 3, 3, 3)),
        "fc.weight": np.zeros((classes, 256)),
    }
    arguments = {"norm": "free", "binary_weights": True, "alpha": None}
    network = importing._network(
        state, source, dataset, name=name, stem=None, **arguments
    )
    assert network.stem == expected
    assert network.width == 8
    assert network.alpha == (0.25 if source is AB else 0.2)


@pytest.mark.slow
def test_imported_weights_load(state, save, tmp_path):
    folder = import_checkpoint(save(state), **ARGUMENTS)
    assert folder == tmp_path / "cache" / "zoo" / "reactnet18_free_cifar10_width8"
    model = zoo.create_model(
        "reactnet18", **CIFAR, weights="cifar10", classifier_activation=None
    )
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    variant = Variant(True, True, stem_stride=1, alpha=0.2)
    expected = forward(state, images.transpose(0, 3, 1, 2), variant)
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-4)


def test_floatx_is_put_back(state, save, tmp_path):
    network = NetworkSpec("reactnet18", **CIFAR)
    broken = {**state, "fc.bias": state["fc.bias"] * np.nan}
    with pytest.raises(UserError, match="must be finite"):
        check_against_oracle(network, broken)
    assert tf.keras.backend.floatx() == "float32"
    assert tf.keras.mixed_precision.global_policy().name == "float32"


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        Variant(False, True, 1, 0.2),
        Variant(True, False, 1, 0.2),
        Variant(True, True, 1, 0.25),
        Variant(True, True, 2, 0.2),
    ],
)
def test_wrong_variants_compute_something_else(state, variant):
    """What the check is for: none of these differs in names or shapes."""
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32))
    right = forward(state, images, Variant(True, True, 1, 0.2))
    wrong = forward(state, images, variant)
    assert np.abs(wrong - right).max() > 1e-3 * np.abs(right).max()


def test_network_that_computes_something_else(state):
    """A zero weight: PyTorch's sign of it is 0, Larq's 1."""
    network = NetworkSpec("reactnet18", norm="none", **CIFAR)
    without = {k: v for k, v in state.items() if not k.endswith("gain")}
    check_against_oracle(network, without)
    kernel = without["layer1.0.binary_conv.weight"].copy()
    kernel[0, 0] = 0
    without["layer1.0.binary_conv.weight"] = kernel
    with pytest.raises(UserError, match=r"logits that differ by .* relative"):
        check_against_oracle(network, without)


def changed(state, **changes):
    renamed = {key.replace("__", "."): value for key, value in changes.items()}
    return {key: v for key, v in {**state, **renamed}.items() if v is not None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"conv1__gain": None}, {}, "1 missing: conv1.gain"),
        ({"extra": np.zeros(3)}, {}, "1 unexpected: extra"),
        (
            {"conv1__gain": np.zeros((9, 1, 1, 1))},
            {},
            r"conv1.gain \(expected \(8, 1, 1, 1\), got \(9, 1, 1, 1\)\)",
        ),
        ({"fc__bias": np.full(10, np.nan)}, {}, "NaN or infinity in fc.bias"),
        ({"conv1__weight": None}, {}, "one without its first or last layer"),
        ({}, {"model": "reactnet_a"}, "without its first or last layer .*--model"),
        ({}, {"model": "reactnet34"}, "missing: layer1.4.move0.bias"),
        ({}, {"model": "abnet18"}, "missing: .*prelu.L_alpha"),
        ({}, {"norm": "batch"}, "missing: .*bn1"),
        ({}, {"norm": "none"}, "unexpected: conv1.gain"),
        ({}, {"norm": "layer"}, "`norm` must be one of"),
        ({}, {"model": "resnet50"}, "`model` must be one of"),
        ({}, {"dataset": "cifar100"}, "must have 100 classes.*a checkpoint with 10"),
        ({}, {"dataset": "svhn"}, "`dataset` must be one of"),
        ({}, {"source": "nobody"}, "`source` must be one of"),
        ({}, {"source": "ab_bnn"}, "names and shapes of bnn_nobn"),
        ({}, {"classifier_dtype": "int8"}, "`classifier_dtype` must be one of"),
    ],
)
def test_other_checkpoints(state, save, tmp_path, changes, options, message):
    path = save(changed(state, **changes))
    with pytest.raises(UserError, match=message):
        import_checkpoint(path, **{**ARGUMENTS, **options}, out=tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_ambiguous_source(save, tmp_path):
    """Names and shapes do not tell liuzechun's ReActNet-18 from the official one."""
    path = save(state_of(name="reactnet18", norm="batch", width=8, num_classes=10))
    with pytest.raises(
        UserError, match=r"bnn_nobn or reactnet. Fix: --source bnn_nobn"
    ):
        import_checkpoint(path, **{**ARGUMENTS, "norm": "batch"}, out=tmp_path)


@pytest.mark.slow
def test_half_precision(state, save, tmp_path, capsys):
    path = save({key: value.astype(np.float16) for key, value in state.items()})
    options = ["--model", "reactnet18", "--norm", "free", "--data", "cifar10"]
    assert main(["import", str(path), *options, "--out", str(tmp_path / "zoo")]) == 0
    output = capsys.readouterr().out
    assert "note: the checkpoint is in half precision" in output
    assert f"export LARQ_NOBN_ZOO={tmp_path / 'zoo'}" in output
    card = read_card(tmp_path / "zoo" / "reactnet18_free_cifar10_width8" / "card.json")
    assert card.origin["dtype"] == "float16"


def test_command_fails_in_one_line(save, state, capsys):
    path = save(changed(state, fc__bias=None))
    options = ["--model", "reactnet18", "--norm", "free", "--data", "cifar10"]
    assert main(["import", str(path), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("larq-nobn: error: The state dict must have exactly")
    assert error.count("\n") == 1
    assert main(["import", "no/such.pth", *options]) == 2
    assert "No such file or directory (no/such.pth)" in capsys.readouterr().err


def test_without_a_licence():
    assert LIUZECHUN.license == ""
    card = dataclasses.replace(small_card(), license="", redistributable=False)
    assert "must not be passed on" in readme(card)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.h5",
            b"\x89HDF\r\n\x1a\n...",
            "which is an HDF5 file. Fix: pass it as weigh",
        ),
        ("a.pth", b"", "which is none .or a cut-off or damaged one"),
        ("a.pth", b"<html>", "which is none"),
        ("a.npz", b"PK", "must be an .npz file of plain arrays"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        import_checkpoint(tmp_path / name, **ARGUMENTS)


def test_pickle_in_an_npz(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([print], dtype=object))
    with pytest.raises(UserError, match="pickled objects, which are never loaded"):
        import_checkpoint(tmp_path / "a.npz", **ARGUMENTS)


def _torch_file(tmp_path, content):
    """Its name says nothing, as A&B BNN's do."""
    return torch_files.save(content, tmp_path / "imagenet_reactneta_step2.h5")


@pytest.mark.slow
def test_torch_file(state, tmp_path):
    path = _torch_file(
        tmp_path,
        {
            "epoch": 255,
            "state_dict": {f"module.{key}": value for key, value in state.items()},
            "best_top1_acc": np.array([91.94], np.float32),
        },
    )
    folder = import_checkpoint(path, **ARGUMENTS, out=tmp_path / "zoo")
    card = read_card(folder / "card.json")
    assert card.metrics == {"top1": 91.94}
    assert card.origin["file"] == path.name
    assert card.origin["dtype"] == "float32"


def test_flipped_bit_in_a_torch_file(state, tmp_path):
    """torch.load itself would read on."""
    path = _torch_file(tmp_path, state)
    content = bytearray(path.read_bytes())
    content[content.index(state["fc.weight"].tobytes()) + 130] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="must be readable.*wrong checksum of 'archive"):
        import_checkpoint(path, **ARGUMENTS)


def test_torch_file_of_something_else(tmp_path):
    with pytest.raises(UserError, match="must hold a state dict.*holds a list"):
        import_checkpoint(_torch_file(tmp_path, [1, 2]), **ARGUMENTS)
    with pytest.raises(UserError, match="'optimizer' of dict"):
        import_checkpoint(_torch_file(tmp_path, {"optimizer": {}}), **ARGUMENTS)


def test_too_large_a_torch_file(state, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_BYTES", 100)
    with pytest.raises(UserError, match="must be readable.*where 100 are the most"):
        import_checkpoint(_torch_file(tmp_path, state), **ARGUMENTS)


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), (91.5, 91.5), ("high", None), (1e9, None)]
)
def test_best_top1(value, expected):
    assert reading.best_top1({"best_top1_acc": value}) == expected
