"""Set-up for all tests."""

import importlib.util

import pytest

import larq_nobn  # noqa: F401  # isort: skip  (first: it selects Keras 2)
import tensorflow as tf

# Two logical CPUs, for tf.distribute; they have to be there before TensorFlow starts.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

# What cannot be installed on every Python, by the marker of the tests that need it.
NEEDED = {"lce": "larq_compute_engine", "larq_zoo": "larq_zoo"}


def pytest_collection_modifyitems(items):
    for marker, package in NEEDED.items():
        if importlib.util.find_spec(package) is None:
            skip = pytest.mark.skip(reason=f"{package} cannot be installed here")
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(skip)


@pytest.fixture(autouse=True)
def _isolated():
    """Seed everything, and undo what a test does to Keras's global state."""
    tf.keras.utils.set_random_seed(1)
    yield
    tf.keras.mixed_precision.set_global_policy(None)
    tf.keras.backend.set_floatx("float32")
    tf.keras.backend.clear_session()


@pytest.fixture
def float64():
    tf.keras.backend.set_floatx("float64")


@pytest.fixture
def tiny(monkeypatch):
    """More rows in the table of networks, of every kind of block, but few."""
    from larq_nobn import zoo
    from larq_nobn.networks import FAMILIES, MobileNet, ResNet

    monkeypatch.setitem(FAMILIES, "one_unit", ResNet((1,), width=2))
    monkeypatch.setitem(FAMILIES, "tiny", ResNet((1, 2), width=4))
    monkeypatch.setitem(FAMILIES, "tiny_a", MobileNet((2, 4, 4), width=4))

    def build(name="tiny", **kwargs):
        defaults = {"stem": "cifar", "num_classes": 3, "input_shape": (8, 8, 3)}
        return zoo.create_model(name, **{**defaults, **kwargs})

    return build


@pytest.fixture
def parity(request):
    """Check a deviation from the reference, and list it at the end of the run."""

    def check(case: str, deviations: dict[str, float], tolerance: float) -> None:
        what, largest = max(deviations.items(), key=lambda item: item[1])
        # Properties of the report come back from parallel workers too.
        row = (case, float(largest), what, tolerance)
        request.node.user_properties.append(("parity", row))
        assert all(value <= tolerance for value in deviations.values()), deviations

    return check


def pytest_terminal_summary(terminalreporter):
    rows = [
        row
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, row in report.user_properties
        if name == "parity"
    ]
    if not rows:
        return
    terminalreporter.section("parity with the reference code, float64")
    width = max(len(case) for case, *_ in rows)
    terminalreporter.line(f"{'case':{width}}  largest deviation (of)")
    for case, largest, what, tolerance in sorted(rows):
        where = f"{what}; tolerance {tolerance:.0e}"
        terminalreporter.line(f"{case:{width}}  {largest:.1e} ({where})")
