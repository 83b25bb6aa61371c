"""Private names of other packages are used in one file for each package, and exist."""

import ast
import importlib
from pathlib import Path

import larq as lq
import pytest
import tensorflow as tf

import larq_nobn

PACKAGE = Path(larq_nobn.__file__).parent
ADAPTERS = ("_keras2", "_larq", "_lce", "_tensorflow", "_tuner")


def _model():
    image = tf.keras.Input((4, 4, 1))
    return tf.keras.Model(image, tf.keras.layers.Conv2D(1, 1)(image))


def _optimizer():
    optimizer = tf.keras.optimizers.Adam()
    optimizer.build(_model().trainable_variables)
    return optimizer


def _node():
    return _model().layers[-1].inbound_nodes[0]


def _convolution():
    return lq.layers.QuantConv2D(1, 1)


def _module(name):
    return lambda: importlib.import_module(name)


NEED_LCE = {"Interpreter"}
NEEDED = [
    (_model, "_nodes_by_depth"),
    (_model, "_flatten_layers"),
    (_model, "_is_graph_network"),
    (_model, "_flatten_to_reference_inputs"),
    (_model, "_conform_to_reference_input"),
    (_model, "_nested_outputs"),
    (_node, "is_input"),
    (_node, "keras_inputs"),
    (_node, "map_arguments"),
    (_node, "call_kwargs"),
    (lambda: larq_nobn._keras2._operators, "TFOpLambda"),
    (lambda: larq_nobn._keras2._operators, "SlicingOpLambda"),
    (lambda: tf.keras.layers.Layer(), "_autocast"),
    (lambda: tf.Variable(0.0), "_unique_id"),
    (_optimizer, "_built"),
    (_optimizer, "_build_index_dict"),
    (_optimizer, "_create_iteration_variable"),
    (_optimizer, "_index_dict"),
    (_optimizer, "_iterations"),
    (_optimizer, "_learning_rate"),
    (_optimizer, "_momentums"),
    (_optimizer, "_var_key"),
    (_optimizer, "_velocities"),
    (_convolution, "_add_variable_with_custom_getter"),
    (_convolution, "_get_padding_same"),
    (_convolution, "_get_quantizer"),
    (_convolution, "_get_spatial_padding_same"),
    (_convolution, "_is_native_padding"),
    (lambda: lq.quantizers.SteSign(metrics=["flip_ratio"]), "_custom_metrics"),
    (lambda: lq.quantizers, "_BaseQuantizer"),
    (_module("tensorflow.lite.python.schema_py_generated"), "ModelT"),
    (_module("tensorflow.lite.python.convert_phase"), "ConverterError"),
    (_module("keras_tuner.src.engine.tuner_utils"), "TunerCallback"),
    (_module("larq_compute_engine.tflite.python.interpreter"), "Interpreter"),
]
CASES = [
    pytest.param(*case, id=case[1], marks=[pytest.mark.lce] * (case[1] in NEED_LCE))
    for case in NEEDED
]


@pytest.mark.parametrize(("owner", "name"), CASES)
def test_every_private_name_exists(owner, name):
    assert hasattr(owner(), name), (
        f"{name} is gone in this version of its package: look for what has taken its "
        f"place, and change larq_nobn's {', '.join(ADAPTERS)}"
    )


def test_keras_learns_shapes_in_a_scratch_graph():
    seen = []

    class Layer(tf.keras.layers.Layer):
        def call(self, inputs):
            graph = tf.compat.v1.get_default_graph()
            seen.append(larq_nobn._keras2.is_scratch_graph(graph))
            return inputs

    Layer()(tf.keras.Input((2,)))
    tf.function(Layer())(tf.zeros([1, 2]))
    assert seen == [True, False]


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _used_and_own(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Private attributes that some code uses, and private names that it defines."""
    used, own = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _private(node.attr):
            # An assignment defines an attribute of our own objects.
            target = isinstance(node.ctx, ast.Store) and ast.unparse(node.value)
            (own if target == "self" else used).add(node.attr)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.alias):
            own.add((node.asname or node.name).split(".")[-1])
    return used, own


def test_no_other_file_uses_private_names_of_other_packages():
    used, own = {}, set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent == PACKAGE and path.stem in ADAPTERS:
            continue
        here, defined = _used_and_own(ast.parse(path.read_text()))
        own |= defined
        used |= {name: path.relative_to(PACKAGE) for name in here}
    theirs = {name for _, name in NEEDED if _private(name)}
    assert not {name: path for name, path in used.items() if name not in own}
    assert not own & theirs
