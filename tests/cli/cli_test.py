import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

import larq_nobn
from larq_nobn import UserError, zoo
from larq_nobn.cli import COMMANDS, main
from larq_nobn.training.evaluation import evaluate

ROOT = str(Path(larq_nobn.__file__).parents[1])


def one_line(capsys):
    """What a user sees of a failure."""
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("larq-nobn: error")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0]


@pytest.fixture
def digits_model(tmp_path):
    model = zoo.create_model(
        "xnornet18", stem="cifar", width=8, input_shape=(8, 8, 1), num_classes=10
    )
    path = tmp_path / "model.keras"
    model.save(path)
    return path


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == larq_nobn.__version__


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert command in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a command is missing"),
        (["fly"], "invalid choice: 'fly'"),
        (["train"], "required: recipe, --out"),
        (["demo", "--seed", "x"], "invalid int value: 'x'"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "no.py", "--out", "x"], "no.py, which does not exist"),
        (
            ["evaluate", "no.keras", "--data", "digits"],
            "no.keras, which does not exist",
        ),
        (["probe", "no.keras"], "no.keras, which does not exist"),
        (["offload", "no.py", "--out", "x"], "no.py, which does not exist"),
    ],
)
def test_missing_files(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in one_line(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_installed_command_fails_in_one_line(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "larq_nobn", "demo", "--out", "/dev/null/demo"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("larq-nobn: error: Not a")


@pytest.mark.slow
def test_evaluate_prints_what_the_model_does(digits_model, capsys):
    assert main(["evaluate", str(digits_model), "--data", "digits"]) == 0
    printed = capsys.readouterr().out
    model = tf.keras.models.load_model(digits_model)
    top1 = evaluate(model, "digits", verbose=False)["top1"]
    assert f"top-1 {top1:.2f} %" in printed
    assert "on 360 test images of digits" in printed


@pytest.mark.slow
def test_evaluate_needs_a_data_set(digits_model, capsys):
    assert main(["evaluate", str(digits_model)]) == 2
    assert "--data must name the data set" in one_line(capsys)


def test_evaluate_needs_the_models_classes():
    model = zoo.create_model(
        "xnornet18", stem="cifar", width=8, input_shape=(8, 8, 1), num_classes=7
    )
    with pytest.raises(UserError, match=r"give 10 classes. Received: .*\(None, 7\)"):
        evaluate(model, "digits")


@pytest.mark.slow
def test_probe_draws(digits_model, tmp_path, capsys):
    out = tmp_path / "plot.png"
    arguments = ["probe", str(digits_model), "--data", "digits", "--out", str(out)]
    assert main(arguments) == 0
    assert "stage1_unit1_add" in capsys.readouterr().out
    assert out.read_bytes()[1:4] == b"PNG"


@pytest.mark.slow
def test_list_prints_every_network(capsys, monkeypatch):
    from larq_nobn.zoo import table

    monkeypatch.setattr(table, "FAMILIES", {"abnet18": zoo.FAMILIES["abnet18"]})
    assert main(["list", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| model | norm | stem | parameters | 1-bit MACs |")
    assert len(lines) == 2 + 2
    row = next(x for x in lines if x.startswith("| abnet18 | free | cifar |"))
    # 16 binary 3x3 convolutions, 13 of 37.75 M MACs and (at stride 2) 3 of half that.
    assert "| 547 M |" in row


# --- Nothing foreign ------------------------------------------------------------------


def _version_into(stdout):
    return subprocess.Popen(
        [sys.executable, "-m", "larq_nobn", "--version"],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def test_a_full_disk_at_the_last_flush_is_said():
    with Path("/dev/full").open("w") as full:
        process = _version_into(full)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    (line,) = _own(error)
    assert line.startswith("larq-nobn: error: No space left on device. Fix: check")
    assert "Traceback" not in error


def _own(error: str) -> list[str]:
    """Lines without those that TensorFlow 2.19 writes whatever its log level."""
    return [line for line in error.splitlines() if "larq-nobn" in line]


def test_a_reader_that_is_gone_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    process = _version_into(writing)
    os.close(writing)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, _own(error)) == (141, [])
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "goes_on"),
    [(["train", "digits_reactnet18", "--out", "x"], True), (["weights"], False)],
)
def test_interrupted(arguments, goes_on, monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    module = f"larq_nobn.cli.{arguments[0]}_command.run"
    monkeypatch.setattr(module, interrupt)
    assert main(arguments) == 130
    assert ("--resume" in one_line(capsys)) == goes_on


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learning_rate=1e400", "`learning_rate` must be from .*=inf"),
        (f"learning_rate={10**400}", "`learning_rate` must be from"),
        (f"seed={2**63}", "`seed` must be from"),
        (f"epochs={10**400}", "`epochs` must be from"),
        (f"width={'9' * 5000}", "`width` must be of type int"),
        (f"stem={'[' * 5000}", "`stem` must be one of"),
        (r"stem='\x1b[31mred\x00'", r"stem=.*x1b\[31mred"),
        (f"stem={'x' * 100_000}", r"x \[...\] x.* Fix: choose"),
    ],
)
def test_strange_settings_are_one_clean_line(setting, message, tmp_path, capsys):
    out = str(tmp_path / "run")
    arguments = ["train", "digits_reactnet18", "--out", out, "--set", setting]
    assert main(arguments) == 2
    line = one_line(capsys)
    assert re.search(message, line)
    assert line.isprintable()
    assert len(line) < 6000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--seed", "9" * 400], "invalid int value"),
        (["train", "r", "--out", "x", "--checkpoint-minutes", "1e400"], "float value"),
        (["inspect", "a\0b"], "arguments cannot contain NUL"),
        (["fl\x1b[31my"], r"fl\\x1b\[31my|fl.x1b"),
    ],
)
def test_strange_arguments_are_one_clean_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    line = one_line(capsys)
    assert re.search(message, line)
    assert line.isprintable()


def test_escape_sequences_in_messages():
    error = UserError("`x` must be\x1b[2J", got="a\rb\x07\udc80", fix="\u202eno")
    assert str(error).isprintable()
    assert str(error).startswith("`x` must be\\x1b[2J. Received: a\\rb\\x07\\udc80")


def test_models_need_the_images_size(tmp_path, capsys):
    model = zoo.create_model("xnornet18", stem="cifar", width=2, num_classes=10)
    path = tmp_path / "m.keras"
    model.save(path)
    message = "A model for digits must take images of (8, 8, 1). Received: input (32,"
    for command in ("probe", "evaluate"):
        assert main([command, str(path), "--data", "digits"]) == 2
        assert message in one_line(capsys)
