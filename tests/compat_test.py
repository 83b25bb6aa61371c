from types import SimpleNamespace

import pytest

from larq_nobn import _compat


def test_the_installed_tensorflow_will_do():
    _compat.check_environment()
    oldest, newest = _compat.SUPPORTED_TF
    assert oldest <= _compat.TF_VERSION <= newest


def test_keras_3_is_refused(monkeypatch):
    tensorflow = SimpleNamespace(
        keras=SimpleNamespace(__version__="3.3.3"), __version__="2.16.1"
    )
    monkeypatch.setattr(_compat, "tf", tensorflow)
    message = (
        r"Larq needs Keras 2, .* is Keras 3\.3\.3\. Fix: set .*TF_USE_LEGACY_KERAS=1"
    )
    with pytest.raises(ImportError, match=message):
        _compat.check_environment()


class _WithoutLegacyKeras:
    """TensorFlow from 2.16 on, where `tf.keras` needs another package."""

    __version__ = "2.18.0"

    @property
    def keras(self):
        raise ImportError("Keras cannot be imported. Check that it is installed.")


def test_a_missing_tf_keras_is_named(monkeypatch):
    monkeypatch.setattr(_compat, "tf", _WithoutLegacyKeras())
    with pytest.raises(
        ImportError, match=r"TensorFlow 2\.18\.0 needs .*Fix: pip install"
    ):
        _compat.check_environment()
