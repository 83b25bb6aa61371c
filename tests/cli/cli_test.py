import subprocess
import sys

import pytest
import tensorflow as tf

import larq_nobn
from larq_nobn import UserError, zoo
from larq_nobn.cli import COMMANDS, main
from larq_nobn.training.evaluation import evaluate


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
