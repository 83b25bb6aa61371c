"""Larq Compute Engine: its import, and every private name of it that is used here."""

import sys
import types

from larq_nobn._errors import UserError


def import_compute_engine() -> types.ModuleType:
    """Return the module `larq_compute_engine`.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import larq_compute_engine
    except ImportError as error:
        raise UserError(
            "Larq Compute Engine must be installed",
            got=f"an environment without it ({error})",
            fix="pip install 'larq_nobn[deploy]'"
            if sys.version_info < (3, 13)
            else "Python 3.10 to 3.12, for which it has wheels",
        ) from error
    return larq_compute_engine


def import_interpreter() -> type:
    """Return Larq Compute Engine's interpreter, whose public wrapper has fewer options.

    Raises:
        UserError: If it is not installed.
    """
    import_compute_engine()
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    return Interpreter
