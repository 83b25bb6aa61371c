import csv
import importlib
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import larq_nobn  # isort: skip  (first: keras_tuner takes the Keras that it selects)
import keras_tuner
import tensorflow as tf

from larq_nobn import UserError, _tuner, zoo
from larq_nobn.cli import main
from larq_nobn.networks import FAMILIES, ResNet
from larq_nobn.optimizers import AdaptiveGradientClipping, CoupledWeightDecay
from larq_nobn.training import Recipe, load_recipe
from larq_nobn.training.data import load_images
from larq_nobn.tuning import ReActNetHyperModel, SearchSpace, build_model, search
from larq_nobn.tuning.searching import _Draw, _oracle, _quiet
from larq_nobn.tuning.space import PARAMETERS, recipe_settings
from larq_nobn.weights.transfer import named_weights

TESTS = Path(__file__).parents[1]
DIGITS = {"input_shape": (8, 8, 1), "num_classes": 10}
FIXED = {"width": 8, "units": None, "surrogate": None, "optimizer": "adam"}

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A network that trains in a second."""
    monkeypatch.setitem(FAMILIES, "tiny", ResNet((1, 1), width=8))


@pytest.fixture(scope="module")
def digits():
    images = load_images("digits", limit=160)
    return [
        (zoo.preprocess_input(x, "digits"), y) for x, y in (images.train, images.test)
    ]


def one_line(capsys):
    error = capsys.readouterr().err.splitlines()
    lines = [line for line in error if line.startswith("larq-nobn: error")]
    assert len(lines) == 1
    assert "Traceback" not in error
    return lines[0]


class TestSpace:
    def test_the_usual_ranges_hold_the_published_values(self):
        hp = keras_tuner.HyperParameters()
        values = SearchSpace("reactnet18").draw(hp)
        for name, value in values.items():
            assert value == PARAMETERS[name].published, name
        assert set(values) == set(PARAMETERS)

    def test_what_may_be_fixed_varied_and_left_out(self):
        space = SearchSpace(
            alpha=0.3, clip_factor=(0.001, 0.1), width=[8, 16], units=None
        )
        values = space.draw(keras_tuner.HyperParameters())
        assert values["alpha"] == 0.3
        assert values["width"] in (8, 16)
        assert "units" not in values
        assert {"alpha", "units"}.isdisjoint(space.varied)
        described = space.describe()
        assert described["clip_factor"] == "from 0.001 to 0.1, log scale"
        assert described["units"] == "left out"

    @pytest.mark.parametrize(
        ("algorithm", "trials"), [("random", 24), ("bayesian", 4), ("hyperband", 24)]
    )
    def test_conditions_hold_in_every_algorithm(self, algorithm, trials, tmp_path):
        """What has no effect has no value; each optimizer has its own rates."""
        space = SearchSpace("tiny")
        seen = []

        class Tuner(keras_tuner.Tuner):
            def run_trial(self, trial):
                seen.append(space.draw(trial.hyperparameters))
                return {"val_top1": float(len(seen) % 7)}

        oracle = _oracle(algorithm, trials, 9, seed=0)
        oracle.verbose = 0
        tuner = Tuner(oracle, _Draw(space), directory=str(tmp_path))
        with _quiet():
            tuner.search()
        assert len(seen) >= 4
        for values in seen:
            assert values["clipping"] == ("clip_factor" in values)
            assert (values["step1_share"] > 0) == ("weight_decay" in values)
            low, high = {"adam": (1e-4, 1e-2), "sgd": (1e-2, 1)}[values["optimizer"]]
            assert low <= values["learning_rate"] <= high
        if trials > 4:
            assert {values["optimizer"] for values in seen} == {"adam", "sgd"}

    @pytest.mark.parametrize(
        ("ranges", "message"),
        [
            ({"alpha": (0.5, 0.1)}, "`alpha` must be a tuple .lowest, highest"),
            ({"alpha": (0.5, 0.5)}, "`alpha` must be a tuple .lowest, highest"),
            ({"alpha": (0.1, 0.2, 0.3)}, "`alpha` must be a tuple .lowest, highest"),
            ({"alpha": (-1.0, 0.5)}, "`alpha` must be a positive number"),
            ({"alpha": (0.1, float("inf"))}, "`alpha` must be finite"),
            ({"alpha": (0.1, float("nan"))}, "`alpha` must be finite"),
            ({"alpha": "0.2"}, "`alpha` must be of type float"),
            ({"clip_factor": (0, 0.1)}, "`clip_factor` must be above 0.*clipping="),
            ({"clip_factor": [0.1, -0.1]}, "`clip_factor` must be at least 0"),
            ({"learning_rate": (0, 0.1)}, "`learning_rate` must be above 0"),
            ({"learning_rate": {"adam": (1e-4, 1e-2)}}, "Received: none for sgd"),
            ({"learning_rate": {"lion": 1e-3}}, "must be one of 'adam', 'rmsprop'"),
            ({"optimizer": ["adam", "lion"]}, "`optimizer` must be one of 'adam'"),
            ({"optimizer": ("adam", "sgd")}, "`optimizer` must be a list of choices"),
            ({"surrogate": ["step"]}, "`surrogate` must be one of"),
            ({"surrogate": [None, "ste_sign"]}, "`surrogate` must be made of single"),
            ({"units": (0, 4)}, "`units` must be a positive integer"),
            ({"units": (1.5, 4.0)}, "`units` must be of type int"),
            ({"width": []}, "`width` must be a list of different choices"),
            ({"width": [16, 16]}, "`width` must be a list of different choices"),
            ({"width": [0, 16]}, "`width` must be a positive integer"),
            ({"weight_decay": (-1e-5, 1e-4)}, "`weight_decay` must be at least 0"),
            ({"step1_share": [0.0, 1.0]}, "`step1_share` must be at least 0 and below"),
            ({"step1_share": (0.0, 0.5)}, "`step1_share` must be a list of choices"),
            ({"step1_share": 0, "weight_decay": 1e-5}, "`weight_decay` must be left"),
            ({"clipping": False, "clip_factor": 0.1}, "`clip_factor` must be left out"),
            ({"clipping": "yes"}, "`clipping` must be one of True, False"),
            ({"gamma": (0, 1)}, "name of a hyperparameter` must be one of 'alpha'"),
            ({"norm": "batch", "alpha": (0.1, 0.2)}, "`alpha` must be left out where"),
            ({"model": "reactnet_a", "units": 3}, "`units` must be left out where"),
            ({"model": "resnet50"}, "`model` must be one of"),
            (dict.fromkeys(PARAMETERS), "at least one hyperparameter with a range"),
        ],
    )
    def test_impossible_ranges(self, ranges, message):
        with pytest.raises(UserError, match=message) as raised:
            SearchSpace(**ranges)
        assert "Received: " in str(raised.value)
        assert "Fix: " in str(raised.value)

    def test_settings_of_a_recipe(self):
        settings = recipe_settings({"step1_share": 0.25, "clipping": False}, epochs=8)
        assert settings == {"clip_factor": 0.0, "step1_epochs": 2, "epochs": 6}
        assert recipe_settings({"step1_share": 0.5}, epochs=1)["epochs"] == 1


class TestBuildModel:
    def test_from_a_dict(self):
        values = {"alpha": 0.3, "width": 8, "units": 1, "clip_factor": 0.01}
        model = build_model(values, "birealnet18", **DIGITS)
        assert model.output_shape == (None, 10)
        assert isinstance(model.optimizer, AdaptiveGradientClipping)
        assert model.optimizer.clip_factor == 0.01
        names = {layer.name for layer in model.layers}
        assert "stage4_unit1_add" in names
        assert "stage4_unit2_add" not in names

    def test_every_value_arrives(self):
        values = {
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "clipping": False,
            "weight_decay": 3e-5,
            "width": 16,
        }
        step1 = build_model(values, "tiny", step="step1", **DIGITS)
        assert isinstance(step1.optimizer, CoupledWeightDecay)
        assert step1.optimizer.coupled_weight_decay == 3e-5
        step2 = build_model(values, "tiny", **DIGITS)
        assert isinstance(step2.optimizer, tf.keras.optimizers.SGD)
        assert float(step2.optimizer.learning_rate) == pytest.approx(0.1)
        assert step2.get_layer("stem").filters == 16

    def test_from_keras_tuners_hyperparameters(self):
        hp = keras_tuner.HyperParameters()
        SearchSpace("tiny", **FIXED | {"optimizer": ["sgd", "adam"]}).draw(hp)
        hp.values["optimizer"] = "sgd"
        hp.values["sgd_learning_rate"] = 0.3
        model = build_model(hp, "tiny", **DIGITS)
        rate = model.optimizer.learning_rate.numpy()
        assert rate == pytest.approx(0.3)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"alfa": 0.2}, "must be one of 'alpha'"),
            ({"alpha": -0.2}, "`alpha` must be a positive number"),
            (0.2, "`hyperparameters` must be a dict"),
        ],
    )
    def test_errors(self, values, message):
        with pytest.raises(UserError, match=message):
            build_model(values, "tiny", **DIGITS)


class _Watch(tf.keras.callbacks.Callback):
    """A user's callback; keras-tuner copies it, so it writes to the class."""

    fits: list = []

    def on_train_begin(self, logs=None):
        self.fits.append({"rates": [], "epochs": [], "begin": self._weights()})

    def on_epoch_begin(self, epoch, logs=None):
        self.fits[-1]["epochs"].append(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        self.fits[-1]["rates"].append(float(self.model.optimizer.learning_rate))

    def on_train_end(self, logs=None):
        self.fits[-1]["end"] = self._weights()

    def _weights(self):
        return {k: v.numpy() for k, v in named_weights(self.model).items()}


@pytest.mark.slow
@pytest.mark.parametrize("tuner_name", ["Hyperband", "RandomSearch"])
def test_unchanged_keras_tuner_code(tuner_name, digits, tmp_path):
    (x, y), test = digits
    share = 0 if tuner_name == "Hyperband" else 0.5
    hypermodel = ReActNetHyperModel(
        "tiny", **DIGITS, **FIXED, learning_rate=3e-3, step1_share=share
    )
    limits = {"max_epochs": 3} if tuner_name == "Hyperband" else {"max_trials": 2}
    tuner = getattr(keras_tuner, tuner_name)(
        hypermodel, objective="val_accuracy", directory=tmp_path, seed=1, **limits
    )
    tuner.search(x, y, validation_data=test, epochs=2, batch_size=32, verbose=0)
    trials = tuner.oracle.get_best_trials(20)
    assert all(trial.status == "COMPLETED" for trial in trials)
    assert len(trials) >= 2
    # What was scored and saved is the network with binary weights.
    best = tuner.get_best_models()[0]
    assert best.optimizer.iterations > 0
    assert any(np.any(v) for v in best.optimizer.variables[1:])
    accuracy = best.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    assert accuracy == pytest.approx(trials[0].score, abs=1e-6)
    if tuner_name == "Hyperband":
        assert any("tuner/trial_id" in t.hyperparameters.values for t in trials)


@pytest.mark.slow
def test_fit_trains_in_two_steps(digits, tmp_path):
    (x, y), test = digits
    fixed = {**FIXED, "step1_share": 0.5, "learning_rate": 1e-3}
    hypermodel = ReActNetHyperModel("tiny", **DIGITS, **fixed)
    tuner = keras_tuner.RandomSearch(
        hypermodel, objective="val_accuracy", max_trials=1, directory=tmp_path, seed=1
    )
    _Watch.fits.clear()
    tuner.search(x, y, 32, 4, validation_data=test, callbacks=[_Watch()], verbose=0)
    step1, step2 = _Watch.fits
    assert step1["epochs"] == [0, 1]
    assert step2["epochs"] == [2, 3]
    assert step1["begin"].keys() == step2["begin"].keys()
    for name, value in step1["end"].items():
        np.testing.assert_array_equal(step2["begin"][name], value)
    # A cosine over each step.
    for step in (step1, step2):
        np.testing.assert_allclose(step["rates"], [1e-3] * 5 + [5e-4] * 5, rtol=1e-6)


@pytest.mark.slow
def test_a_constant_rate_and_another_loss(digits):
    (x, y), _ = digits
    hypermodel = ReActNetHyperModel(
        "tiny", **DIGITS, schedule=None, loss="categorical_crossentropy", **FIXED
    )
    hp = keras_tuner.HyperParameters()
    _Watch.fits.clear()
    history = hypermodel.fit(
        hp,
        hypermodel.build(hp),
        x[:64],
        tf.one_hot(y[:64], 10),
        epochs=2,
        callbacks=[_Watch()],
        verbose=0,
    )
    assert history.epoch == [1]
    assert {rate for fit in _Watch.fits for rate in fit["rates"]} == {
        np.float32(5e-4).item()
    }


@pytest.mark.slow
class TestForeignFolders:
    """keras-tuner goes on with whatever lies in its folder."""

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ({"units": [32, 512], "learning_rate": [1e-3]}, "`units` must be from 1 t"),
            ({"dropout": [0.1, 0.5]}, "Received: one over dropout. Fix: choose anoth"),
        ],
    )
    def test_another_search(self, names, message, digits, tmp_path):
        def build(hp):
            for name, choices in names.items():
                hp.Choice(name, choices)
            model = tf.keras.Sequential([tf.keras.layers.Flatten()])
            model.add(tf.keras.layers.Dense(10, activation="softmax"))
            model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
            return model

        def tuner(hypermodel, trials):
            return keras_tuner.RandomSearch(
                hypermodel, "val_accuracy", trials, directory=tmp_path, seed=1
            )

        (x, y), test = digits
        tuner(build, 1).search(x, y, validation_data=test, verbose=0)
        # Its choices are used up, so keras-tuner must not ask for more of them.
        ours = ReActNetHyperModel("birealnet18", **DIGITS, width=8)
        again = tuner(ours, 2)
        with pytest.raises(UserError, match=message):
            again.search(x, y, validation_data=test, verbose=0)


def tune(out, *arguments, trials=3, **environment):
    command = [
        *(sys.executable, str(TESTS / "tiny_search.py"), "tune", "--data", "digits"),
        *("--model", "tiny", "--limit", "160", "--epochs", "2", "--out", str(out)),
        *("--trials", str(trials), "--set", "width=8", "units=None", "batch_size=32"),
        *arguments,
    ]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("search") / "run"
    result = tune(out)
    assert result.returncode == 0, result.stderr
    return out, result


def table(out):
    rows = list(csv.DictReader((out / "leaderboard.csv").read_text().splitlines()))
    for row in rows:
        del row["seconds"]
    return rows


def test_a_search_leaves_everything(finished):
    out, result = finished
    rows = table(out)
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    accuracies = [float(row["val_top1"]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert f"best of 3 trials: {accuracies[0]:.2f} %" in result.stdout
    assert "trial 2: alpha" in result.stderr
    text = (out / "leaderboard.md").read_text()
    assert "Top-1 on 32 held-out training images" in text
    assert f"| 1 | {rows[0]['trial']} | {accuracies[0]:.2f} |" in text
    assert (out / "search.png").read_bytes()[1:4] == b"PNG"
    assert len(list((out / "trials").iterdir())) == 3
    assert not list(out.glob("trials/*/checkpoints"))


@pytest.mark.slow
def test_the_best_trial_is_a_recipe_that_trains(finished, tmp_path, capsys):
    out, _ = finished
    best = table(out)[0]
    file = out / "best_recipe.py"
    recipe = load_recipe(file)
    assert recipe.alpha == float(best["alpha"])
    assert recipe.epochs == int(best["step2_epochs"])
    assert recipe.limit is None
    run = tmp_path / "run"
    # On the images of the search's own training part it would be the same number.
    assert main(["train", str(file), "--out", str(run), "--set", "limit=160"]) == 0
    assert "digits_tiny_tuned: top-1" in capsys.readouterr().out
    assert (run / "model.keras").exists()


@pytest.mark.slow
def test_killed_searches_end_like_the_others(finished, tmp_path):
    expected, _ = finished
    out = tmp_path / "search"
    # In the first trial, in the middle of a file, and in a later trial.
    for place in ("batch:3", "write:9", "batch:7"):
        killed = tune(out, "--resume", KILL_AT=place)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = tune(out, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert table(out) == table(expected)
    assert (out / "best_recipe.py").read_text() == (
        expected / "best_recipe.py"
    ).read_text()
    assert not list(out.glob("trials/*/.*tmp*"))


def run_here(out, *arguments):
    """The command in this process, for what fails before any training."""
    return main(
        [
            *("tune", "--data", "digits", "--model", "tiny", "--limit", "160"),
            *("--epochs", "2", "--out", str(out), "--trials", "3"),
            *("--set", "width=8", "units=None", "batch_size=32", *arguments),
        ]
    )


class TestCommand:
    def test_a_finished_search_goes_on_to_its_result(self, finished, capsys):
        out, _ = finished
        before = table(out)
        assert run_here(out, "--resume") == 0
        assert "best of 3 trials" in capsys.readouterr().out
        assert table(out) == before

    def test_a_folder_is_used_once(self, finished, capsys):
        assert run_here(finished[0]) == 2
        assert "A search needs a folder of its own" in one_line(capsys)

    def test_another_search_is_named(self, finished, capsys):
        assert run_here(finished[0], "alpha=(0.1,0.3)", "--resume") == 2
        line = one_line(capsys)
        assert "A resumed search must keep its settings" in line
        assert (
            "range of alpha was 'from 0.1 to 1.0, log scale', is 'from 0.1 to 0.3"
        ) in line

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("oracle.json", "{}", "holds a keras-tuner project (oracle.json)"),
            ("settings.json", '{"name": "x"}', "holds a training (settings.json)"),
            ("notes.txt", "", "holds something else (notes.txt)"),
        ],
    )
    def test_other_folders(self, file, content, message, tmp_path, capsys):
        (tmp_path / file).write_text(content)
        assert run_here(tmp_path, "--resume") == 2
        assert message in one_line(capsys)
        assert (tmp_path / file).read_text() == content

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["alpha=(0.5,0.1)"], "The range of `alpha` must be a tuple"),
            (["speed=3"], "A setting must be one of name, dataset"),
            (["dataset=imagenet"], "imagenet"),
            (["--trials", "0"], "`trials` must be a positive integer"),
            (["--epochs", "0"], "`epochs` must be a positive integer"),
            (["batch_size=500"], "`batch_size` must be from 1 to the number of"),
            (["--data", "mnist"], "`dataset` must be one of 'cifar10'"),
        ],
    )
    def test_wrong_arguments(self, arguments, message, tmp_path, capsys):
        assert run_here(tmp_path / "out", *arguments) == 2
        assert message in one_line(capsys)

    @pytest.mark.slow
    def test_diverged_trials(self, tmp_path, capsys):
        arguments = ["learning_rate=1e30", "optimizer=sgd", "step1_share=0"]
        out = tmp_path / "out"
        assert run_here(out, *arguments, "clipping=False") == 2
        assert "Received: 3 trials, all of which diverged" in one_line(capsys)
        assert "| diverged |" in (out / "leaderboard.md").read_text()

    def test_without_keras_tuner(self, tmp_path, capsys, monkeypatch):
        for name in list(sys.modules):
            if name.startswith("larq_nobn.tuning"):
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(larq_nobn, "tuning", raising=False)
        monkeypatch.setitem(sys.modules, "keras_tuner", None)
        assert run_here(tmp_path) == 2
        assert "Fix: pip install 'larq_nobn[tune]'" in one_line(capsys)


def test_search_checks_the_space(tmp_path):
    recipe = Recipe(name="x", dataset="digits", model="tiny", stem="cifar")
    with pytest.raises(UserError, match="`space` must be for the recipe's network"):
        search(recipe, tmp_path, space=SearchSpace("reactnet18"))
    with pytest.raises(UserError, match="`algorithm` must be one of 'random'"):
        search(recipe, tmp_path, algorithm="grid")


@pytest.mark.slow
def test_the_same_recipe_is_not_trained_twice(tmp_path, capsys):
    recipe = Recipe(name="x", dataset="digits", model="tiny", stem="cifar", limit=160)
    fixed = {**FIXED, "alpha": 0.2, "learning_rate": 1e-3, "weight_decay": None}
    # Of two epochs both shares are none.
    space = SearchSpace(
        "tiny", **fixed, clipping=True, clip_factor=0.02, step1_share=[0.0, 0.1]
    )
    arguments = {"space": space, "algorithm": "random", "trials": 2, "epochs": 2}
    leaderboard = search(recipe.replace(batch_size=32), tmp_path, **arguments)
    assert len(leaderboard) == 1
    assert "  as trial 0" in capsys.readouterr().err
    assert len(list((tmp_path / "trials").iterdir())) == 1


class TestKeras2:
    """keras-tuner by itself takes the package `keras`, whatever its version."""

    def test_it_is_imported_with_tf_keras_as_keras(self, monkeypatch):
        keras, tf_keras = ModuleType("keras"), ModuleType("tf_keras")
        monkeypatch.setitem(sys.modules, "keras", keras)
        monkeypatch.setitem(sys.modules, "tf_keras", tf_keras)
        module = ModuleType("keras_tuner")

        def execute(module):
            module.keras = importlib.import_module("keras")

        _tuner._on_keras_2(execute, module)
        assert module.keras is tf_keras
        assert sys.modules["keras"] is keras

    def test_only_keras_tuner_is_found(self):
        assert _tuner._KerasTunerFinder.find_spec("keras_tuner_too") is None
        spec = _tuner._KerasTunerFinder.find_spec("keras_tuner")
        assert spec.origin == keras_tuner.__spec__.origin

    def test_keras_3_is_refused(self, monkeypatch):
        utils = sys.modules["keras_tuner.src.engine.tuner_utils"]
        monkeypatch.setattr(utils, "TunerCallback", object)
        with pytest.raises(ImportError, match="Fix: import larq_nobn before keras_tun"):
            _tuner.import_keras_tuner()

    @pytest.mark.slow
    def test_user_code_may_import_keras_tuner_itself(self):
        code = (
            "import larq_nobn, keras_tuner, tensorflow as tf\n"
            "from keras_tuner.src.engine.tuner_utils import TunerCallback\n"
            "assert issubclass(TunerCallback, tf.keras.callbacks.Callback)\n"
            "import keras; print(keras.__version__)"
        )
        environment = {k: v for k, v in os.environ.items() if "LEGACY_KERAS" not in k}
        run = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert run.returncode == 0, run.stderr
        # The user's own `keras` is the installed one again.
        assert run.stdout.strip() == importlib.metadata.version("keras")


@pytest.mark.slow
def test_the_page_runs(monkeypatch, tmp_path):
    text = (TESTS.parent / "docs" / "tune.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks:
        exec(compile(block, "docs/tune.md", "exec"), namespace)
