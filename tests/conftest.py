"""Set-up for all tests."""

import pytest
import tensorflow as tf

# Two logical CPUs, for tf.distribute; they have to be there before TensorFlow starts.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

_PARITY = pytest.StashKey[list]()


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
def parity(request):
    """Check a deviation from the reference, and list it at the end of the run."""
    rows = request.config.stash.setdefault(_PARITY, [])

    def check(case: str, deviations: dict[str, float], tolerance: float) -> None:
        what, largest = max(deviations.items(), key=lambda item: item[1])
        rows.append((case, largest, what, tolerance))
        assert all(value <= tolerance for value in deviations.values()), deviations

    return check


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(_PARITY, [])
    if not rows:
        return
    terminalreporter.section("parity with the reference code, float64")
    width = max(len(case) for case, *_ in rows)
    terminalreporter.line(f"{'case':{width}}  largest deviation (of)")
    for case, largest, what, tolerance in rows:
        where = f"{what}; tolerance {tolerance:.0e}"
        terminalreporter.line(f"{case:{width}}  {largest:.1e} ({where})")
