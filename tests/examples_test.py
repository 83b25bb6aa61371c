"""The examples of docstrings run."""

import doctest
import importlib
import inspect
import pathlib
import pkgutil
from types import SimpleNamespace

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

import larq_nobn
from larq_nobn import deploy, zoo
from larq_nobn.weights.torch.layouts import torch_entries


def _examples():
    """Every docstring with an example, by its object's name."""
    for info in pkgutil.walk_packages(larq_nobn.__path__, "larq_nobn."):
        if info.name.endswith(("__main__", "xla_runner")):
            continue
        module = importlib.import_module(info.name)
        for name, thing in vars(module).items():
            if getattr(thing, "__module__", None) != info.name:
                continue
            if ">>>" in (inspect.getdoc(thing) or ""):
                yield pytest.param(module, thing, id=f"{info.name}.{name}")


EXAMPLES = list(_examples())


@pytest.fixture
def world(tiny, tmp_path, monkeypatch):
    """What the examples take as given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    import larq_zoo

    model = tiny("tiny", num_classes=10, input_shape=(32, 32, 3))
    model.compile("adam", "sparse_categorical_crossentropy")
    content = deploy.convert(model)
    (tmp_path / "model.tflite").write_bytes(content)
    photos = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    images, labels = zoo.preprocess_input(photos, "cifar10"), np.arange(4)
    entries = torch_entries(model).items()
    state = {name: np.ones(entry.shape, np.float32) for name, entry in entries}
    return {
        **{name: getattr(deploy, name) for name in deploy.__all__},
        "ClippingReport": larq_nobn.callbacks.ClippingReport,
        "batch": tf.constant(images),
        "content": content,
        "images": images,
        "labels": labels,
        "larq_nobn": larq_nobn,
        "larq_zoo": larq_zoo,
        "lq": lq,
        "model": model,
        "my_layers": larq_nobn.layers.RSign(),
        "ops": larq_nobn.ops,
        "pathlib": pathlib,
        "photos": photos,
        "tf": tf,
        "torch": SimpleNamespace(load=lambda *_, **__: state),
        "train_step": lambda x: model(x, training=True),
        "zoo": zoo,
    }


def test_there_are_examples():
    assert len(EXAMPLES) > 20


@pytest.mark.slow
@pytest.mark.lce
@pytest.mark.larq_zoo
@pytest.mark.parametrize(("module", "thing"), EXAMPLES)
def test_example_runs(module, thing, world):
    names = {**vars(module), **world}
    for example in doctest.DocTestParser().get_examples(inspect.getdoc(thing)):
        exec(compile(example.source, thing.__qualname__, "single"), names)
