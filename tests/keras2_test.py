from types import SimpleNamespace

import pytest

from larq_nobn import _keras2


def test_the_installed_tensorflow_will_do():
    _keras2.check_environment()
    oldest, newest = _keras2.SUPPORTED_TF
    assert oldest <= _keras2.TF_VERSION <= newest


def test_keras_3_is_refused(monkeypatch):
    tensorflow = SimpleNamespace(
        keras=SimpleNamespace(__version__="3.3.3"), __version__="2.16.1"
    )
    monkeypatch.setattr(_keras2, "tf", tensorflow)
    message = (
        r"Larq needs Keras 2, .* is Keras 3\.3\.3\. Fix: set .*TF_USE_LEGACY_KERAS=1"
    )
    with pytest.raises(ImportError, match=message):
        _keras2.check_environment()


class _WithoutLegacyKeras:
    """TensorFlow where `tf.keras` needs another package."""

    def __init__(self, version):
        self.__version__ = version

    @property
    def keras(self):
        raise ImportError("Keras cannot be imported. Check that it is installed.")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ((2, 19), r"TensorFlow 2\.19\.1 needs .*Fix: pip install 'tf_keras"),
        # It has Keras 2, and needs the package only if the environment says so.
        ((2, 15), r"_LEGACY_KERAS is set.*Fix: unset TF_USE_LEGACY_KERAS, or pip"),
    ],
)
def test_a_missing_tf_keras_is_named(monkeypatch, version, message):
    monkeypatch.setattr(_keras2, "TF_VERSION", version)
    tensorflow = _WithoutLegacyKeras(".".join(map(str, version)) + ".1")
    monkeypatch.setattr(_keras2, "tf", tensorflow)
    with pytest.raises(ImportError, match=message):
        _keras2.check_environment()
