import dataclasses
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import larq_nobn
from larq_nobn import UserError, zoo
from larq_nobn.cli import main
from larq_nobn.datasets import DATASETS
from larq_nobn.networks import FAMILIES, ResNet
from larq_nobn.saving import load_model
from larq_nobn.training import data, engine, load_recipe, publish_run, train
from larq_nobn.training.checkpoint import Checkpoint, load_latest, save_checkpoint
from larq_nobn.training.distribution import make_strategy
from larq_nobn.training.engine import build_trainer, decayed_variables
from larq_nobn.training.folder import RunFolder
from larq_nobn.training.trainer import load_teacher
from larq_nobn.weights.card import read_card
from larq_nobn.weights.transfer import named_weights, weights_sha256

RECIPE_FILE = Path(__file__).parents[1] / "tiny_recipe.py"


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    """The recipe's own network, gone behind each test that reads the recipe."""
    monkeypatch.setitem(FAMILIES, "tiny", ResNet((1, 1), width=8))


@pytest.fixture
def recipe():
    return load_recipe(RECIPE_FILE)


def command(out, *arguments):
    recipe_and_out = [str(RECIPE_FILE), "--out", str(out)]
    return [sys.executable, "-m", "larq_nobn", "train", *recipe_and_out, *arguments]


def run(out, *arguments, **environment):
    return subprocess.run(
        command(out, *arguments),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    result = run(out)
    assert result.returncode == 0, result.stderr
    return out


def result_of(out):
    return json.loads((out / "result.json").read_text())


def test_a_run_leaves_everything(finished):
    result = result_of(finished)
    assert result["recipe"] == "tiny_recipe"
    assert result["epochs"] == {"step1": 3, "step2": 3}
    assert set(result["top1"]) == {"step1", "step2"}
    assert result["settings"]["epochs"] == 3
    assert result["versions"]["tensorflow"] == tf.__version__
    history = json.loads((finished / "history.json").read_text())
    assert [row["epoch"] for row in history["step2"]] == [1, 2, 3]
    assert history["step1"][0]["learning_rate"] == pytest.approx(2e-3)
    lines = (finished / "history.csv").read_text().splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("step,epoch,learning_rate")
    assert (finished / "curve.png").read_bytes()[1:4] == b"PNG"
    assert list((finished / "tensorboard" / "step2").iterdir())


def test_the_saved_model_gives_the_reported_accuracy(finished):
    model = tf.keras.models.load_model(finished / "model.keras")
    images = data.load_images("digits", limit=160)
    x, y = images.test
    predictions = model.predict(zoo.preprocess_input(x, "digits"), verbose=0)
    np.testing.assert_allclose(predictions.sum(axis=1), 1, atol=1e-5)
    top1 = 100 * (predictions.argmax(axis=1) == y).mean()
    assert top1 == pytest.approx(result_of(finished)["top1"]["step2"], abs=1e-4)
    weights = {name: v.numpy() for name, v in named_weights(model).items()}
    assert weights_sha256(weights) == result_of(finished)["weights_sha256"]


@pytest.mark.slow
def test_mixed_precision_reports_what_the_saved_model_gives(recipe, tmp_path):
    mixed = recipe.replace(precision="mixed_bfloat16", epochs=1, limit=512)
    result = train(mixed, tmp_path, verbose=False)
    model = tf.keras.models.load_model(tmp_path / "model.keras")
    x, y = data.load_images("digits", limit=512).test
    predictions = model.predict(zoo.preprocess_input(x, "digits"), verbose=0)
    top1 = 100 * (predictions.argmax(axis=1) == y).mean()
    assert result["top1"]["step2"] == pytest.approx(top1, abs=1e-4)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill_at", "options"),
    # An epoch writes two histories, arrays and description, the run its settings
    # first. Late: in the description of the first checkpoint of step 2, then in the
    # middle of its epoch. Within epochs, with a checkpoint a batch: in the arrays of
    # the first, then behind the second batch of the second epoch, then in the
    # description of the first batch of step 2.
    [
        (["write:17", "batch:4"], ()),
        (["write:2", "batch:8", "write:22"], ("--checkpoint-minutes=0",)),
    ],
    ids=["late", "within"],
)
def test_killed_runs_end_like_the_others(finished, tmp_path, kill_at, options):
    out = tmp_path / "run"
    done = []
    for place in kill_at:
        killed = run(out, "--resume", *options, KILL_AT=place)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (out / "result.json").exists()
        checkpoint = load_latest(out / "checkpoints")
        done.append(checkpoint and [checkpoint.meta[k] for k in ("epoch", "batch")])
    if options:
        assert done == [None, [1, 2], [3, 0]]
    resumed = run(out, "--resume", *options)
    assert resumed.returncode == 0, resumed.stderr
    assert result_of(out)["weights_sha256"] == result_of(finished)["weights_sha256"]
    assert without_times(out) == without_times(finished)
    assert not list(out.rglob("*.tmp*"))


def without_times(out):
    history = json.loads((out / "history.json").read_text())
    return [{**row, "seconds": 0} for step in history for row in history[step]]


def test_checkpoint_minutes_are_not_negative(recipe, tmp_path):
    with pytest.raises(UserError, match="must be 0 or more. Received: -1"):
        train(recipe, tmp_path, checkpoint_minutes=-1)


@pytest.mark.slow
def test_step_1_may_be_skipped(recipe, tmp_path, capsys):
    arguments = ["train", str(RECIPE_FILE), "--out", str(tmp_path / "run"), "--set"]
    settings = ["step1_epochs=0", "epochs=1", "optimizer=sgd", "learning_rate=0.1"]
    assert main([*arguments, *settings]) == 0
    assert "(binary activations and weights from the start)" in capsys.readouterr().out
    result = result_of(tmp_path / "run")
    assert result["epochs"] == {"step1": 0, "step2": 1}
    assert result["top1"]["step1"] is None
    assert result["top1"]["step2"] == result["best_top1"]["step2"]


@pytest.fixture
def bundle(finished, tmp_path):
    """The finished run, published."""
    return publish_run(finished, tmp_path / "bundles")


@pytest.mark.slow
def test_starts_from_a_bundle(recipe, bundle, tmp_path, monkeypatch):
    """By its folder, its name or the data set's: the first step has its loss."""
    monkeypatch.setenv("LARQ_NOBN_ZOO", str(bundle.parent))
    published = zoo.create_model(**recipe.model_arguments(), weights=bundle)
    images = data.load_images("digits", limit=160)
    x, y = next(iter(images.train_batches(32, recipe.seed, 0)))
    expected = tf.keras.losses.CategoricalCrossentropy()(y, published(x)).numpy()
    for weights in (str(bundle), bundle.name, "digits"):
        further = recipe.replace(weights=weights, step1_epochs=0)
        model = build_trainer(further, "step2")
        loss, _ = model.update(x, y)
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
        # The moving average starts there too.
        before, first = published.trainable_variables[0], model.averages[0]
        np.testing.assert_allclose(first, before, atol=1e-2)
    result = train(further.replace(epochs=1), tmp_path / "run", verbose=False)
    assert result["settings"]["weights"] == "digits"
    folder = publish_run(tmp_path / "run", tmp_path / "zoo")
    card = read_card(folder / "card.json")
    assert card.recipe["weights"] == "digits"


def test_weights_of_another_network_are_refused(recipe, bundle):
    for wrong in ({"step1_epochs": 1}, {"width": 16}, {"alpha": 0.3}):
        other = recipe.replace(**{"step1_epochs": 0, **wrong}, weights=str(bundle))
        with pytest.raises(UserError, match="must be for the network that is built"):
            build_trainer(other, other.first_step)


def test_weights_are_for_the_first_step(recipe, bundle):
    other = recipe.replace(weights=str(bundle), step1_epochs=1)
    assert np.isfinite(build_trainer(other, "step2").get_weights()[0]).all()


def test_averages_of_step_2_start_from_step_1(recipe, tmp_path, monkeypatch):
    """Its one epoch, of a linear schedule, changes nothing: nor must its average."""
    started = {}

    def assign(variables, values, what):
        if what == "The weights of step 1":
            started.update(values)
        assign_checked(variables, values, what)

    assign_checked = engine.assign_checked
    monkeypatch.setattr(engine, "assign_checked", assign)
    recipe = recipe.replace(ema=0.5, step1_epochs=2, epochs=1, schedule="linear")
    train(recipe, tmp_path, verbose=False)
    model = load_model(tmp_path / "model.keras")
    assert started
    for name, variable in named_weights(model).items():
        np.testing.assert_allclose(variable, started[name], rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_steps_of_different_lengths(recipe, tmp_path):
    recipe = recipe.replace(step1_epochs=2, epochs=1, optimizer="rmsprop", units=2)
    result = train(recipe, tmp_path, verbose=False)
    assert result["epochs"] == {"step1": 2, "step2": 1}
    rates = [row["learning_rate"] for row in result_history(tmp_path)["step1"]]
    assert rates == pytest.approx([2e-3, 1e-3])
    model = tf.keras.models.load_model(tmp_path / "model.keras")
    assert model.get_layer("stage2_unit2_add")


def result_history(out):
    return json.loads((out / "history.json").read_text())


def test_a_finished_run_resumes_to_its_result(finished, recipe):
    assert train(recipe, finished, resume=True) == result_of(finished)


@pytest.mark.parametrize("content", ["", "null", '{"top1": 1}'])
def test_a_damaged_result_is_made_again(finished, tmp_path, recipe, capsys, content):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "result.json").write_text(content)
    result = train(recipe, out, resume=True, verbose=False)
    assert "result.json is damaged" in capsys.readouterr().err
    assert result["weights_sha256"] == result_of(finished)["weights_sha256"]


def test_only_own_files_are_removed(recipe, tmp_path):
    """What a killed run left half-written, and nothing of the user."""
    own = [".history.json.12-34.tmp", ".model.keras.12-34.tmp.keras"]
    own += [".model.12.tmp.keras", "checkpoints/.00000005.npz.12-34.tmp"]
    users = [".notes_tmp.txt", ".tmp", ".vim.tmp", "tmp.txt", "checkpoints/.a.tmp"]
    (tmp_path / "checkpoints").mkdir()
    for name in own + users:
        (tmp_path / name).touch()
    with RunFolder(tmp_path, recipe, resume=False):
        left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")}
    assert left == {*users, "checkpoints", "settings.json", ".lock"}


def test_an_empty_out_is_no_folder(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="`out` must name a file or folder"):
        train(recipe, "")
    with pytest.raises(SystemExit) as stop:
        main(["train", str(RECIPE_FILE), "--out", ""])
    assert stop.value.code == 2
    assert "argument --out: invalid" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_one_run_a_folder(finished, recipe, capsys):
    assert main(["train", str(RECIPE_FILE), "--out", str(finished)]) == 2
    message = capsys.readouterr().err
    assert "A run needs a folder of its own" in message
    assert message.count("\n") == 1


def test_resume_keeps_the_settings(finished, recipe):
    changed = recipe.replace(epochs=5, norm="batch")
    with pytest.raises(UserError, match="epochs was 3, is 5; norm was 'free', is 'ba"):
        train(changed, finished, resume=True)


def test_a_folder_is_held_by_one_process(recipe, tmp_path):
    with RunFolder(tmp_path, recipe, resume=False):
        with pytest.raises(UserError, match="another process is training"):
            RunFolder(tmp_path, recipe, resume=True).__enter__()


@pytest.mark.parametrize("content", ["{", "null", "[" * 100_000])
def test_unreadable_settings(recipe, tmp_path, content):
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(UserError, match="must hold the settings of the run"):
        train(recipe, tmp_path, resume=True)


def test_no_permission_is_one_line(tmp_path, capsys):
    # A file where a folder should be: as unwritable for root as for others.
    (tmp_path / "file").write_text("")
    assert main(["train", str(RECIPE_FILE), "--out", str(tmp_path / "file/run")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("larq-nobn: error: Not a directory")
    assert message.count("\n") == 1


@pytest.mark.slow
def test_divergence_stops_and_says_where(recipe, tmp_path):
    wild = recipe.replace(clip_factor=0.0, learning_rate=1e30, epochs=2)
    with pytest.raises(
        UserError, match=r"Received: (nan|inf) in step1, epoch [12] of 2"
    ):
        train(wild, tmp_path, verbose=False)


@pytest.mark.slow
def test_options_train_together(recipe, tmp_path):
    """Teacher, mixing, reflect padding, mirrored test, surrogate, bfloat16, traces."""
    teacher = tmp_path / "teacher.keras"
    zoo.create_model("tiny", stem="cifar", input_shape=(8, 8, 1), num_classes=10).save(
        teacher
    )
    rich = recipe.replace(
        epochs=1,
        teacher=str(teacher),
        teacher_weight=0.5,
        label_smoothing=0.1,
        mixup=0.2,
        cutmix=1.0,
        padding="reflect",
        flip_test=True,
        surrogate="sigmoid_sign",
        warmup_epochs=1,
        precision="mixed_bfloat16",
        weight_decay=1e-3,
    )
    result = train(rich, tmp_path / "run", verbose=False, trace=True)
    assert np.isfinite(result["top1"]["step2"])
    traces = json.loads((tmp_path / "run" / "traces.json").read_text())
    clipped = traces["step1"][0]["clipped"]
    assert "classifier/kernel:0" not in clipped
    assert 0 <= clipped["stem/kernel:0"]["fraction"] <= 1
    blocks = [row["layer"] for row in traces["step2"][0]["blocks"]]
    assert blocks == ["stage1_unit1_rprelu", "stage2_unit1_rprelu"]


@pytest.mark.slow
def test_decayed_variables_are_the_references(recipe):
    model = zoo.create_model(
        "reactnet18", stem="cifar", width=8, input_shape=(8, 8, 3), num_classes=10
    )
    decayed = {id(variable) for variable in decayed_variables(model)}
    for name, variable in named_weights(model).items():
        leaf = name.split("/")[1]
        expected = leaf != "slope" and not name.startswith("classifier/")
        assert (id(variable) in decayed) == expected, name


@pytest.mark.slow
def test_distillation_loss_is_the_mixture(recipe):
    model = build_trainer(recipe.replace(ema=0.0), "step1")
    teacher_logits = tf.constant(
        np.random.default_rng(0).normal(size=(4, 10)), tf.float32
    )
    mixed = build_trainer(
        recipe.replace(ema=0.0, teacher_weight=0.3),
        "step1",
        teacher=lambda images: teacher_logits,
    )
    x = tf.random.normal([4, 8, 8, 1])
    y = tf.one_hot([1, 2, 3, 4], 10)
    logits = model(x)
    hard = float(model.compute_loss(x, y, logits))
    soft = float(larq_nobn.losses.DistributionLoss()(teacher_logits, logits))
    expected = 0.3 * soft + 0.7 * hard
    assert float(mixed.compute_loss(x, y, logits)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_moving_average(recipe):
    model = build_trainer(recipe, "step1")
    before = [v.numpy() for v in model.trainable_variables]
    images = data.load_images("digits", limit=64)
    model.fit(images.train_batches(32, 0, 0).take(1), verbose=0)
    after = [v.numpy() for v in model.trainable_variables]
    with model.averaged():
        for old, new, used in zip(
            before, after, model.trainable_variables, strict=True
        ):
            np.testing.assert_allclose(used, 0.9 * old + 0.1 * new, atol=1e-7)
    for new, variable in zip(after, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(new, variable)


@pytest.mark.slow
def test_teacher_with_other_classes(tmp_path, recipe):
    path = tmp_path / "teacher.keras"
    zoo.create_model("tiny", stem="cifar", input_shape=(8, 8, 1), num_classes=7).save(
        path
    )
    with pytest.raises(UserError, match=r"10 classes. Received: .*\(None, 7\)"):
        load_teacher(str(path), DATASETS["digits"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such.keras", "which does not exist"),
        ("keras:ResNet5", "Received: 'ResNet5'"),
    ],
)
def test_missing_teacher(name, message):
    with pytest.raises(UserError, match=message):
        load_teacher(name, DATASETS["imagenet"])


class TestCheckpoint:
    def save(self, folder, number):
        arrays = {"a": np.full(5, number, np.float32)}
        save_checkpoint(folder, number, Checkpoint(arrays, {"step": number}))

    def test_latest_two_are_kept(self, tmp_path):
        for number in range(1, 5):
            self.save(tmp_path, number)
        files = sorted(path.name for path in tmp_path.iterdir())
        expected = ["00000003.json", "00000003.npz", "00000004.json", "00000004.npz"]
        assert files == expected
        assert load_latest(tmp_path).meta == {"step": 4}

    @pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "description"])
    def test_damage_falls_back_and_is_said(self, tmp_path, capsys, damage):
        self.save(tmp_path, 1)
        self.save(tmp_path, 2)
        path = tmp_path / "00000002.npz"
        content = bytearray(path.read_bytes())
        if damage == "flip":
            content[-40] ^= 1
            path.write_bytes(content)
        elif damage == "truncate":
            path.write_bytes(content[:50])
        elif damage == "remove":
            path.unlink()
        else:
            path.with_suffix(".json").write_text('{"step"')
        loaded = load_latest(tmp_path)
        np.testing.assert_array_equal(loaded.arrays["a"], np.ones(5))
        assert "checkpoint 00000002" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"null", "no JSON object"),
            (b"[]", "no JSON object"),
            (b"[" * 100_000, "nested too deeply"),
            (b"\xff", "can't decode"),
            (b"{}", "arrays_sha256"),
            (None, "No such file"),
        ],
    )
    def test_damaged_descriptions_are_said(self, tmp_path, capsys, content, message):
        self.save(tmp_path, 1)
        self.save(tmp_path, 2)
        description = tmp_path / "00000002.json"
        description.unlink()
        if content is not None:
            description.write_bytes(content)
        assert load_latest(tmp_path).meta == {"step": 1}
        error = capsys.readouterr().err
        assert error.startswith("larq-nobn: checkpoint 00000002 in ")
        assert message in error
        assert error.count("\n") == 1

    def test_descriptions_have_a_digest(self, tmp_path, capsys):
        """No change of a value is trusted; 300 random ones."""
        random = np.random.default_rng(0)
        history = {"step1": [{"epoch": 1, "loss": 0.25}], "step2": []}
        state = engine._State(epoch=1, history=history, best_top1=0.5)
        meta = dataclasses.asdict(state)
        arrays = {"a": np.zeros(3)}
        save_checkpoint(tmp_path, 1, Checkpoint(arrays, meta))
        path = tmp_path / "00000001.json"
        content = path.read_bytes()
        trusted = 0
        for _ in range(300):
            changed = bytearray(content)
            changed[random.integers(len(content))] = random.choice(list(b' 0123,"}'))
            path.write_bytes(changed)
            loaded = load_latest(tmp_path, engine._check_state)
            assert loaded is None or loaded.meta == meta
            trusted += loaded is not None
        assert trusted < 100  # Those that changed nothing, or spaces.

    def test_older_checkpoints_without_it(self, recipe, finished, tmp_path, capsys):
        """They resume, if they say nothing that contradicts itself."""
        shutil.copytree(finished / "checkpoints", tmp_path / "old")
        *_, path = sorted((tmp_path / "old").glob("*.json"))
        meta = json.loads(path.read_text())
        assert meta.pop("sha256")
        path.write_text(json.dumps(meta))
        check = engine._check_state
        assert load_latest(tmp_path / "old", check).meta["epoch"] == 3
        path.write_text(json.dumps({**meta, "epoch": 0}))
        assert load_latest(tmp_path / "old", check).meta["epoch"] == 2
        assert "0 epochs of step 1 and [3, 3] in all" in capsys.readouterr().err

    def test_only_own_files_are_read_and_removed(self, tmp_path):
        strays = ["00000160 (1).json", "2024.json", "notes.json", "7.npz"]
        for name in strays:
            (tmp_path / name).write_text("{}")
        (tmp_path / "00000000.npz").touch()  # Of one killed before its description.
        for number in range(1, 5):
            self.save(tmp_path, number)
        assert load_latest(tmp_path).meta == {"step": 4}
        own = {f"0000000{n}{suffix}" for n in (3, 4) for suffix in (".json", ".npz")}
        assert {path.name for path in tmp_path.iterdir()} == own | set(strays)

    def test_none(self, tmp_path):
        assert load_latest(tmp_path) is None

    def test_pickles_are_not_read(self, tmp_path, capsys):
        arrays = {"a": np.array([{}], object)}
        save_checkpoint(tmp_path, 1, Checkpoint(arrays, {}))
        assert load_latest(tmp_path) is None
        assert "allow_pickle=False" in capsys.readouterr().err

    def test_full_disk_keeps_the_last(self, tmp_path):
        self.save(tmp_path, 1)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                self.save(tmp_path, 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert load_latest(tmp_path).meta == {"step": 1}
        assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
class TestWorkers:
    """Two devices, and two real processes on loopback."""

    settings = ("--set", "precision=float64", "ema=0.0", "epochs=1")

    @pytest.fixture(scope="class")
    def alone(self, tmp_path_factory):
        """The weights of one device."""
        out = tmp_path_factory.mktemp("alone") / "run"
        result = run(out, *self.settings)
        assert result.returncode == 0, result.stderr
        return self.weights(out)

    @staticmethod
    def weights(out):
        model = tf.keras.models.load_model(out / "model.keras")
        return {name: v.numpy() for name, v in named_weights(model).items()}

    def assert_same(self, out, expected):
        for name, variable in self.weights(out).items():
            np.testing.assert_allclose(
                variable, expected[name], atol=1e-6, err_msg=name
            )

    def start(self, out, index, ports, *arguments, **environment):
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        return subprocess.Popen(
            command(out, "--distribute", "multiworker", *self.settings, *arguments),
            env={**os.environ, "TF_CONFIG": json.dumps(config), **environment},
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def free_ports():
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        ports = [s.getsockname()[1] for s in sockets]
        for s in sockets:
            s.close()
        return ports

    def finish(self, out, *arguments):
        ports = self.free_ports()
        workers = [self.start(out, i, ports, *arguments) for i in range(2)]
        for worker in workers:
            _, errors = worker.communicate(timeout=300)
            assert worker.returncode == 0, errors

    def test_two_workers_equal_one(self, alone, tmp_path):
        self.finish(tmp_path / "two")
        self.assert_same(tmp_path / "two", alone)

    def test_two_devices_equal_one(self, alone, tmp_path):
        out = tmp_path / "mirrored"
        result = run(out, "--distribute", "mirrored", *self.settings, DEVICES="2")
        assert result.returncode == 0, result.stderr
        self.assert_same(out, alone)

    def test_a_lost_worker_is_said_and_the_run_resumes(self, tmp_path):
        ports = self.free_ports()
        out = tmp_path / "run"
        chief = self.start(out, 0, ports)
        # Dies in step 2, behind the checkpoint of step 1.
        other = self.start(out, 1, ports, KILL_AT="batch:8")
        _, errors = chief.communicate(timeout=300)
        other.communicate(timeout=60)
        assert other.returncode == -signal.SIGKILL
        assert chief.returncode == 2, errors
        assert "another worker is gone" in errors
        self.finish(out, "--resume")
        assert (out / "result.json").exists()


@pytest.mark.parametrize("config", [None, "{", '{"cluster": {}}'])
def test_workers_need_their_configuration(monkeypatch, config):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UserError, match="TF_CONFIG must name all workers"):
        make_strategy("multiworker", 32)


def test_batch_divides_among_replicas():
    with pytest.raises(
        UserError, match="among the 2 replicas. Received: batch_size=33"
    ):
        make_strategy("mirrored", 33)


def test_unknown_strategy():
    with pytest.raises(UserError, match="`distribute` must be one of None, 'mirrored'"):
        make_strategy("tpu", 32)
