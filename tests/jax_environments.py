"""The Pythons that have jax, and what tests do with them.

jax cannot share TensorFlow's packages, so `make test` gives it environments of its own,
inside the one that tests run in or in `JAX_ENVIRONMENTS`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_FOLDER = Path(os.environ.get("JAX_ENVIRONMENTS", sys.prefix))
OLDER, NEWER = (_FOLDER / name / "bin" / "python" for name in ("jax", "jax312"))

needs_older = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="jax has no release for Python 3.10 that fits"
)
needs_newer = pytest.mark.skipif(
    not NEWER.exists(), reason="jax 0.11 needs Python 3.12, which is not here"
)


def run(what, folder, *arguments, python=OLDER):
    """Run `xla_device.py`; its output."""
    script = Path(__file__).with_name("xla_device.py")
    done = subprocess.run(
        [python, script, what, folder, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
