import dataclasses
import math

import pytest

from larq_nobn import UserError
from larq_nobn.training import Recipe, load_recipe, parse_settings

RECIPE = Recipe(name="r", dataset="digits", model="reactnet18", stem="cifar")


def test_linear_schedule_is_the_papers():
    # The reference's own rates for 8 epochs of base 5e-4.
    expected = [4.375e-4, 3.75e-4, 3.125e-4, 2.5e-4, 1.875e-4, 1.25e-4, 6.25e-5, 0.0]
    recipe = RECIPE.replace(epochs=8)
    rates = [recipe.learning_rate_at(epoch) for epoch in range(8)]
    assert rates == pytest.approx(expected, abs=1e-18)


def test_cosine_schedule_warms_up():
    recipe = RECIPE.replace(epochs=12, schedule="cosine", warmup_epochs=2)
    rates = [recipe.learning_rate_at(epoch) / 5e-4 for epoch in range(12)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rates[7] == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] > 0


def test_each_step_has_its_own_schedule():
    recipe = RECIPE.replace(epochs=6, step1_epochs=2, schedule="cosine")
    rates = [recipe.learning_rate_at(e, "step1") / 5e-4 for e in range(2)]
    assert rates == pytest.approx([1, 0.5])
    assert recipe.learning_rate_at(3) / 5e-4 == pytest.approx(0.5)
    assert (recipe.epochs_of("step1"), recipe.epochs_of("step2")) == (2, 6)
    assert RECIPE.epochs_of("step1") == RECIPE.epochs


def test_settings_are_parsed_as_literals():
    pairs = ["epochs=5", "learning_rate=1e-3", "norm=batch", "width=None"]
    settings = parse_settings(pairs)
    expected = {"epochs": 5, "learning_rate": 1e-3, "norm": "batch", "width": None}
    assert settings == expected
    assert RECIPE.replace(**settings).norm == "batch"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 5}, r"one of name, dataset, .*epochs.*Received: 'epoch'"),
        ({"epochs": 1.5}, r"`epochs` must be of type int. Received: epochs=1.5"),
        ({"epochs": True}, r"`epochs` must be of type int"),
        ({"width": "64"}, r"`width` must be of type int or None"),
        ({"epochs": 0}, r"`epochs` must be above 0"),
        ({"learning_rate": "fast"}, r"`learning_rate` must be of type float"),
        ({"learning_rate": -1.0}, r"`learning_rate` must be above 0"),
        ({"learning_rate": float("nan")}, r"`learning_rate` must be from"),
        ({"label_smoothing": 1.0}, r"`label_smoothing` must be .*below 1"),
        ({"ema": 1.0}, r"`ema` must be .*below 1"),
        ({"teacher_weight": 2.0}, r"`teacher_weight` must be .*at most 1"),
        ({"clip_factor": -0.1}, r"`clip_factor` must be at least 0"),
        ({"step1_epochs": -1}, r"`step1_epochs` must be at least 0"),
        ({"optimizer": "lion"}, r"`optimizer` must be one of 'adam', 'rmsprop', 'sgd'"),
        ({"norm": "layer"}, r"`norm` must be one of 'free', 'batch', 'none'"),
        ({"model": "resnet"}, r"`model` must be one of 'reactnet18'"),
        ({"dataset": "mnist"}, r"`dataset` must be one of 'cifar10'"),
        ({"schedule": "step"}, r"`schedule` must be one of 'linear', 'cosine'"),
        ({"padding": "edge"}, r"`padding` must be one of 'zero', 'reflect'"),
        ({"precision": "int8"}, r"`precision` must be one of 'float32'"),
        ({"seed": 2**32}, r"`seed` must be from .* Received: seed=4294967296"),
        ({"learning_rate": float("inf")}, r"`learning_rate` must be from .*=inf"),
        ({"epochs": 10**5000}, r"Received: epochs=a int that is too long to print"),
        ({"surrogate": "relu"}, r"`surrogate` must be one of None, 'approx_sign'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(UserError, match=message):
        RECIPE.replace(**settings)


def test_setting_without_equals():
    with pytest.raises(UserError, match="key=value. Received: 'epochs'"):
        parse_settings(["epochs"])


def test_recipe_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPE.epochs = 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.py", None, "which does not exist"),
        ("recipe.txt", "", "A recipe must be a Python file"),
        ("broken.py", "RECIPE = (", "SyntaxError"),
        ("unknown.py", "import no_such_module", "ModuleNotFoundError"),
        ("empty.py", "", "RECIPE is NoneType"),
        ("dict.py", "RECIPE = {}", "RECIPE is dict"),
        ("exit.py", "raise SystemExit(0)", "exit.py, SystemExit: 0. Fix"),
        ("zero.py", "1 / 0", "zero.py, ZeroDivisionError: division by zero"),
        ("own.py", "class E(BaseException): pass\nraise E", "own.py, E: E"),
        ("nul.py", "\0", "nul.py, (SyntaxError|ValueError): "),
        ("deep.py", "(" * 1000 + ")" * 1000, "deep.py, (Syntax|Memory|Recursion)"),
    ],
)
def test_wrong_recipe_file(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_recipe(path)


def test_published_recipes_load(request):
    for path in sorted((request.config.rootpath / "training").glob("*.py")):
        recipe = load_recipe(path)
        assert recipe.name == path.stem
        text = path.read_text()
        for part in ("Paper:", "Command:", "Cost:", "Departures"):
            assert part in text
