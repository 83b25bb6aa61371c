"""The errors for everything that a user can put right, and the usual checks."""

import numbers
from collections.abc import Iterable
from math import inf
from typing import Any


class UserError(ValueError):
    """A failure that the user can repair: says what was expected, received and the fix.

    It is a `ValueError`, so that library users can catch it as they would in Keras; the
    command line turns it into one line and exit status 2.

    Args:
        expected: What must be, in words and without a full stop; all of the message
            where there is no `fix`.
        got: What was received.
        fix: What to do.
    """

    def __init__(self, expected: str, *, got: object = None, fix: str | None = None):
        if fix is not None:
            expected = f"{expected}. Received: {_clause(got)}. Fix: {_clause(fix)}."
        super().__init__(expected)


def _clause(text: object) -> str:
    """Without the full stop that a sentence of somebody else may have."""
    text = str(text).strip()
    is_sentence = text.endswith(".") and (text[-2:-1].isalnum() or text[-2:-1] in "')")
    return text[:-1] if is_sentence else text


class UserTypeError(UserError, TypeError):
    """The same for a value of the wrong type."""


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
            f"`{what}` must be one of {', '.join(map(repr, allowed))}",
            got=f"{what}={received!r}",
            fix=fix or "choose one of the names above",
        )


def check_number(
    what: str,
    value: Any,
    fix: str,
    *,
    kind: type = float,
    zero: bool = False,
    negative: bool = False,
) -> None:
    """Check that a value is a number above 0, and finite.

    Args:
        what: Name of the argument.
        value: The value to check.
        fix: What to do.
        kind: `float` for any real number, `int` for whole ones.
        zero: Whether 0 is fine too.
        negative: Whether 0 and negative ones are, too.

    Raises:
        UserError: If it is something else.
    """
    wanted = numbers.Integral if kind is int else numbers.Real
    is_number = isinstance(value, wanted) and not isinstance(value, bool)
    low = -inf if negative else 0
    if not is_number or not (low < value < inf or (zero and value == 0)):
        noun = "integer" if kind is int else "number"
        rule = f"a {noun}, 0 or more" if zero else f"a positive {noun}"
        rule = f"a finite {noun}" if negative else rule
        raise UserError(f"`{what}` must be {rule}", got=f"{what}={value!r}", fix=fix)
