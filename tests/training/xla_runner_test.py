"""The part of `run.py` that needs no jax."""

import numpy as np
import pytest

from larq_nobn.training import Recipe, recipe, xla_runner
from larq_nobn.training.xla_runner import BadInput


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "kernel": rng.standard_normal((100, 150)).astype(np.float32),
        "scalar": np.int64(7),
        "empty": np.zeros((0, 3), np.uint8),
        "labels": np.arange(9000),
    }


def write(folder, arrays, stem="weights_5", save=np.savez, most=50_000):
    return xla_runner.write_pieces(folder, stem, arrays, most, save)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pieces_are_small_and_give_the_arrays_back(arrays, tmp_path, save):
    pieces = write(tmp_path, arrays, save=save)
    assert [file["name"] for file in pieces["files"]] == [
        f"weights_5_{i}.npz" for i in range(3)
    ]
    assert all(path.stat().st_size <= 50_000 for path in tmp_path.iterdir())
    again = xla_runner.read_pieces(tmp_path, pieces)
    assert list(again) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array, strict=True)


def test_missing_pieces_are_all_named(arrays, tmp_path):
    pieces = write(tmp_path, arrays)
    for number in (0, 2):
        (tmp_path / f"weights_5_{number}.npz").unlink()
    with pytest.raises(BadInput, match=r"no weights_5_0.npz, weights_5_2.npz\. Fix"):
        xla_runner.read_pieces(tmp_path, pieces)


def test_pieces_of_another_save(arrays, tmp_path):
    pieces = write(tmp_path, arrays)
    (tmp_path / "weights_5_1.npz").rename(tmp_path / "weights_9_1.npz")
    with pytest.raises(BadInput, match=r"no weights_5_1.npz \(but weights_9_1.npz, of"):
        xla_runner.read_pieces(tmp_path, pieces)


def test_a_truncated_piece(arrays, tmp_path):
    pieces = write(tmp_path, arrays)
    path = tmp_path / "weights_5_1.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match="_1.npz must .*Received: 100 bytes: it is cut"):
        xla_runner.read_pieces(tmp_path, pieces)


def test_a_damaged_piece(arrays, tmp_path):
    pieces = write(tmp_path, arrays)
    path = tmp_path / "weights_5_2.npz"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match="_2.npz must .*Received: another SHA-256"):
        xla_runner.read_pieces(tmp_path, pieces)


@pytest.mark.parametrize("schedule", recipe.SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 2, 9])
def test_the_schedule_is_the_recipes(schedule, warmup):
    ours = Recipe(
        name="r",
        dataset="digits",
        model="reactnet18",
        stem="cifar",
        schedule=schedule,
        warmup_epochs=warmup,
        epochs=7,
        step1_epochs=5,
    )
    settings = vars(ours)
    for step, epochs in (("step1", 5), ("step2", 7)):
        for epoch in range(epochs):
            rate = xla_runner.learning_rate(settings, epoch, epochs)
            assert rate == ours.learning_rate_at(epoch, step)


def test_epochs_by_the_clock_keep_the_recipes_proportion():
    shares = {"step1": 40, "step2": 60}
    plan = xla_runner.plan_epochs(shares, {"step1": 1.0, "step2": 2.0}, 160.0)
    assert plan == {"step1": 40, "step2": 60}
    plan = xla_runner.plan_epochs(shares, {"step1": 1.0, "step2": 1.0}, 25.0)
    assert plan == {"step1": 10, "step2": 15}
    # Two of each at least.
    plan = xla_runner.plan_epochs(shares, {"step1": 1.0, "step2": 1.0}, 4.5)
    assert plan == {"step1": 2, "step2": 2}
    plan = xla_runner.plan_epochs({"step1": 0, "step2": 9}, {"step2": 1.0}, 4.5)
    assert plan == {"step1": 0, "step2": 4}


@pytest.mark.parametrize("steps", [("step1", "step2"), ("step2",)])
def test_no_time_for_four_epochs(steps):
    shares = {"step1": 0, "step2": 0} | dict.fromkeys(steps, 8)
    with pytest.raises(BadInput, match="for four epochs. Received: 3.9 s .*take 4.0 s"):
        xla_runner.plan_epochs(shares, dict.fromkeys(steps, 1.0), 3.9)


@pytest.mark.parametrize(
    ("top1", "epochs", "steps", "expected"),
    [
        (25.0, 4, 300, True),
        (40.0, 4, 300, False),
        (25.0, 3, 300, False),
        (25.0, 4, 299, False),
    ],
)
def test_chance_is_the_most_frequent_class(top1, epochs, steps, expected):
    labels = np.array([0, 0, 0, 1, 1, 2, 3, 4, 5, 6])
    assert xla_runner.learns_nothing(labels, top1, epochs, steps) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: --out"),
        (["--out", "x", "--seconds", "0"], "--seconds: must be 1 or more, not 0"),
        (["--out", "x", "--seconds", "nan"], "--seconds: must be 1 or more, not nan"),
        (["--out", "x", "--epochs", "0"], "--epochs: must be 1 or more, not 0"),
        (["--out", "x", "--epochs", "1", "2", "3"], "one or two numbers, not [1, 2, 3"),
        (["--out", "x", "--piece-mb", "0"], "--piece-mb: must be 0.05 or more"),
        (["--out", "x", "--folder", "nowhere"], "no nowhere/description.json"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, capsys):
    assert xla_runner.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("run.py: error: ")
    assert message in error
    assert "Fix: " in error
    assert error.count("\n") == 1
