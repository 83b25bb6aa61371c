"""The error type for everything that a user can put right."""

import numbers
from collections.abc import Iterable
from math import inf
from typing import Any


class UserError(ValueError):
    """A failure that the user can repair: says what was expected, received and the fix.

    It is a `ValueError`, so that library users can catch it as they would in Keras; the
    command line turns it into one line and exit status 2.
    """


def one_of(
    what: str, received: object, allowed: Iterable[object], fix: str = ""
) -> None:
    """Check that a value is among the allowed ones.

    Args:
        what: Name of the argument.
        received: The value to check.
        allowed: The valid values.
        fix: What to do; by default "choose one of them".

    Raises:
        UserError: If `received` is not in `allowed`.
    """
    allowed = list(allowed)
    if not any(received is value or received == value for value in allowed):
        raise UserError(
            f"`{what}` must be one of {', '.join(map(repr, allowed))}. "
            f"Received: {what}={received!r}. "
            f"Fix: {fix or 'choose one of the names above'}."
        )


def check_number(what: str, value: Any, kind: type, hint: str) -> None:
    """Check that a value is a positive number, or integer, and finite."""
    wanted = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, wanted) or not 0 < value < inf:
        noun = "integer" if kind is int else "number"
        raise UserError(
            f"`{what}` must be a positive {noun}. Received: {what}={value!r}. "
            f"Fix: {hint}."
        )
