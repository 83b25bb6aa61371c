"""Models saved by other TensorFlow versions load in this one."""

from pathlib import Path

import numpy as np
import pytest
import saved_models

from larq_nobn.saving import load_model

SAVED = Path(__file__).parent / "data" / "saved"


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("version", ["2.15", "2.18", "2.19"])
def test_saved_by_another_version(version, suffix):
    model = load_model(SAVED / f"tf{version}{suffix}")
    images = saved_models.images()
    expected = np.load(SAVED / f"tf{version}.npy", allow_pickle=False)
    np.testing.assert_allclose(model(images), expected, atol=1e-6)
    # The optimizer's state came along, and training goes on.
    assert model.optimizer.iterations == 1
    assert any(np.any(x) for x in model.optimizer.variables[1:])
    model.fit(images, np.ones((4, 3), np.float32), verbose=0)
    assert model.optimizer.iterations == 2
