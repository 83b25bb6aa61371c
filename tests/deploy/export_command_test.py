"""The commands: export, inspect, benchmark."""

import re

import numpy as np
import pytest
from deploying import images_for, network

from larq_nobn import UserError, deploy, zoo
from larq_nobn.cli import main
from larq_nobn.cli._model_argument import open_model
from larq_nobn.deploy import benchmarking
from larq_nobn.deploy.flatbuffer import Flatbuffer
from larq_nobn.deploy.survey import randomize
from larq_nobn.networks import NetworkSpec
from larq_nobn.weights.bundle import write_bundle
from larq_nobn.weights.card import Card

pytestmark = pytest.mark.lce


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = network(
        "reactnet18", input_shape=(8, 8, 1), num_classes=10, classifier_activation=None
    )
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    model.save(path)
    return path


def test_export(saved, tmp_path, capsys):
    out, header = tmp_path / "2-digits.tflite", tmp_path / "model.h"
    status = main(
        f"export {saved} --out {out} --header {header} --check 8 --dataset digits "
        "--accuracy 40".split()
    )
    text = capsys.readouterr().out
    assert status == 0, text
    assert "random images: 8 images: logits deviate by " in text
    assert "digits test images: 8 images: logits deviate by " in text
    assert "0 unexplained" in text
    assert "top-1 on 40 digits test images: model " in text
    assert "16 binary convolutions; " in text
    assert Flatbuffer(out.read_bytes()).inputs[0].shape == (1, 8, 8, 1)
    assert "static const unsigned char model_2_digits[" in header.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {out.name, header.name}


@pytest.mark.slow
def test_export_in_int8(saved, tmp_path, capsys):
    out, header = tmp_path / "m.tflite", tmp_path / "m.h"
    status = main(
        f"export {saved} --out {out} --target tflite --quantize int8 --data digits "
        f"--representative 40 --accuracy 30 --check 8 --header {header} "
        "--header-name weights --header-guard APP_MODEL_H".split()
    )
    text = capsys.readouterr().out
    assert status == 0, text
    assert "int8 by 40 digits training images\n" in text
    assert "random images" not in text
    assert "digits test images: 8 images: logits deviate by " in text
    found = re.search(r"model (.*) %, file (.*) % \((.*)\)", text).groups()
    model, file, cost = map(float, found)
    assert cost == pytest.approx(file - model, abs=0.011)
    file = Flatbuffer(out.read_bytes())
    assert [x.dtype for x in (*file.inputs, *file.outputs)] == ["int8", "int8"]
    text = header.read_text()
    assert "#ifndef APP_MODEL_H\n#define APP_MODEL_H\n" in text
    assert "const unsigned char weights[WEIGHTS_SIZE]" in text


@pytest.mark.slow
def test_accuracy_of_model_and_file_agree(saved, tmp_path, capsys):
    main(
        f"export {saved} --out {tmp_path / 'm.tflite'} --check 0 --dataset digits "
        "--accuracy 0 --target tflite --float-weights int8".split()
    )
    line = next(t for t in capsys.readouterr().out.splitlines() if "top-1 on" in t)
    words = line.split()
    assert words[2] == "360"
    model, file = (float(words[words.index(w) + 1]) for w in ("model", "file"))
    assert abs(model - file) < 2


@pytest.mark.slow
def test_check_all(saved, monkeypatch, capsys):
    monkeypatch.setattr("larq_nobn.zoo.list_models", lambda: ["birealnet18"])
    assert main(f"export --check-all --width 8 --check 2 {saved}".split()) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split("  ")[0] for line in lines]
    norms = [f"birealnet18 {norm}" for norm in ("free", "batch", "none")]
    assert names == ["network", *norms, str(saved)]
    assert all("16 of 16" in line and "100.00 %" in line for line in lines[1:])


@pytest.mark.slow
def test_check_all_fails_loudly(saved, monkeypatch, capsys):
    monkeypatch.setattr("larq_nobn.zoo.list_models", lambda: [])
    monkeypatch.setattr("larq_nobn.deploy.checking.TOLERANCE", -1.0)
    monkeypatch.setattr("larq_nobn.deploy.checking.ROUNDING", -1.0)
    assert main(f"export --check-all --check 1 {saved}".split()) == 2
    assert f"no rounding explains, in {saved}. Fix:" in capsys.readouterr().err


@pytest.mark.slow
def test_published_models(tmp_path, monkeypatch, capsys):
    """A bundle's folder names a model, and so does its name."""
    arguments = {
        "name": "birealnet18",
        "stem": "cifar",
        "width": 8,
        "num_classes": 10,
        "input_shape": (8, 8, 1),
    }
    model = zoo.create_model(**arguments)
    randomize(model)
    card = Card(
        network=NetworkSpec(**arguments),
        dataset="digits",
        classes=tuple((digit, digit) for digit in "0123456789"),
        mean=(0.3,),
        std=(0.4,),
    )
    folder = write_bundle(model, card, tmp_path)
    monkeypatch.setenv("LARQ_NOBN_ZOO", str(tmp_path))
    images = images_for(model)
    for name in (str(folder), folder.name):
        loaded = open_model(name)
        np.testing.assert_allclose(loaded(images), model(images), atol=1e-5)
    out = tmp_path / "m.tflite"
    assert main(f"export {folder.name} --out {out} --check 4".split()) == 0
    assert deploy.report(out.read_bytes()).binary_convolutions == 16


def test_models_that_are_not_there(capsys):
    with pytest.raises(UserError, match="nothing_like_it, which does not exist"):
        open_model("nothing_like_it")
    assert main(["inspect", "nothing_like_it"]) == 2
    assert "nothing_like_it, which does not exist" in capsys.readouterr().err


@pytest.mark.slow
def test_inspect(saved, tmp_path, capsys):
    file, png = tmp_path / "m.tflite", tmp_path / "m.png"
    model = zoo.create_model(
        "birealnet18", stem="cifar", width=8, input_shape=(8, 8, 3)
    )
    file.write_bytes(deploy.convert(model, "xcore"))
    assert main(f"inspect {file} --png {png}".split()) == 0
    text = capsys.readouterr().out
    assert "16 binary convolutions; " in text
    assert png.read_bytes().startswith(b"\x89PNG")
    assert main(f"inspect {saved} --blocks".split()) == 0
    text = capsys.readouterr().out
    assert "stage4_unit4  4 ADD, 1 CONV_2D, 3 MUL" in text
    assert "before folding 0." in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            "export --out m.tflite",
            "One MODEL and --out FILE are needed. Received: 0 mod",
        ),
        ("export {saved}", "Received: 1 models, --out None"),
        (
            "export {saved} --out m --check -1",
            "must not be negative. Received: --check",
        ),
        (
            "export {saved} --out m --accuracy 0",
            "needs test images. Received: no --data",
        ),
        ("export {saved} --out m --target gpu", "`target` must be one of 'arm'"),
        (
            "export {saved} --out m --float-weights int4",
            "`float_weights` must be one of",
        ),
        ("export {saved} --out m --dataset mnist", "`dataset` must be one of"),
        (
            "export {saved} --out /nowhere/m.tflite --check 0",
            "No such file or directory",
        ),
        (
            "export {saved} --out m.tflite --target tflite --quantize int8",
            (
                "--quantize needs training images, whose values it takes the ranges "
                "of. Received: no --data"
            ),
        ),
        (
            "export {saved} --out m.tflite --quantize int8 --data digits",
            "Only files for plain TFLite can be quantized. Received: target='arm'",
        ),
        (
            "export {saved} --out m --target c --quantize int8 --data digits",
            "Only files for plain TFLite can be quantized. Received: target='c'",
        ),
        (
            (
                "export {saved} --out m.tflite --target tflite --quantize int8 "
                "--data digits --representative 0"
            ),
            "Received: --representative 0",
        ),
        (
            "export {saved} --out m.tflite --header-name x",
            "--header-name and --header-guard are of --header. Received: no --header",
        ),
        (
            "export --check-all --check 0",
            "--check-all needs images. Received: --check 0",
        ),
        ("inspect {text}", "must be a TFLite flatbuffer. Received: 9 bytes"),
        ("benchmark {saved} --runs 0", "`runs` and `threads` must be positive. Receiv"),
        ("benchmark {saved} --threads 0", "Received: runs=50, threads=[0]"),
        (
            "benchmark {saved} --contenders tpu",
            "`contenders` must be among lce, lce-ind",
        ),
    ],
)
def test_bad_input_is_one_line(saved, tmp_path, capsys, arguments, error):
    text = tmp_path / "text.tflite"
    text.write_text("no model\n")
    assert main(arguments.format(saved=saved, text=text).split()) == 2
    captured = capsys.readouterr().err.strip().splitlines()[-1]
    assert error in captured
    assert "Fix: " in captured


@pytest.mark.slow
def test_a_file_that_differs_is_not_written(saved, tmp_path, monkeypatch, capsys):
    other = network("reactnet18", "none", input_shape=(8, 8, 1), num_classes=10)
    content = deploy.convert(other)
    monkeypatch.setattr("larq_nobn.deploy.convert", lambda *args, **kwargs: content)
    out = tmp_path / "m.tflite"
    assert main(f"export {saved} --out {out}".split()) == 2
    assert "must compute what the model computes" in capsys.readouterr().err
    assert not out.exists()


# ------------------------------------------------------------------------ benchmark


@pytest.mark.slow
def test_benchmark():
    model = network("reactnet18", input_shape=(32, 32, 3))
    contenders = ("lce", "keras", "bn-twin", "quicknet")
    assert {*contenders, "lce-indirect", "tflite"} == {*deploy.CONTENDERS}
    result = deploy.benchmark(model, threads=(1,), contenders=contenders, runs=3)
    assert [m.contender for m in result.measurements] == list(contenders)
    assert all(0 < m.fastest <= m.median < 10 for m in result.measurements)
    assert all(m.memory > 0 for m in result.measurements)
    sizes = {m.contender: m.nbytes for m in result.measurements}
    assert sizes["keras"] == 0
    # The twin folds to the same operators, and so to the same size.
    assert sizes["bn-twin"] == pytest.approx(sizes["lce"], rel=0.02)
    text = str(result)
    assert "BN twin, LCE" in text
    assert "larq-zoo's QuickNet, LCE" in text


def test_benchmark_says_what_x86_means(monkeypatch):
    monkeypatch.setattr(benchmarking, "_measure", lambda *args: [])
    model = network("xnornet18", "batch")
    for machine, noted in (("x86_64", True), ("aarch64", False)):
        monkeypatch.setattr(benchmarking.platform, "machine", lambda m=machine: m)
        notes = deploy.benchmark(model, contenders=("bn-twin",)).notes
        assert notes[0] == "No BN twin: xnornet18_batch is no BN-free model of the zoo."
        assert any("64-bit Arm" in note for note in notes) == noted


@pytest.mark.slow
def test_a_contender_that_dies(tmp_path):
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"exported, LCE must run. .*flatbuffer"):
        benchmarking._measure({"lce": bad}, threads=1, runs=1)


def test_ratios_are_to_the_first():
    fast = benchmarking.Measurement("lce", 1, 0.002, 0.001, 5_000_000, 1_500_000)
    slow = benchmarking.Measurement("keras", 1, 0.005, 0.004, 90_000_000, 0)
    table = str(benchmarking.Benchmark((fast, slow), "aarch64", ()))
    rows = [line.split() for line in table.splitlines()[1:3]]
    assert rows[0][-6:] == ["1", "2.00", "1.00", "1.00", "5.0", "1.50"]
    assert rows[1][-5:] == ["1", "5.00", "4.00", "2.50", "90.0"]
    assert np.isfinite(fast.median)
