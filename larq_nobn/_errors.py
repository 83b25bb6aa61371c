"""The errors for everything that a user can put right, and the usual checks."""

import numbers
from collections.abc import Iterable
from typing import Any

_MOST_LETTERS = 1500
_LARGEST = {int: 2**63 - 1, float: 1e38}


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
        text = cleaned(expected, 2 * _MOST_LETTERS)
        if fix is not None:
            text = f"{text}. Received: {_clause(got)}. Fix: {_clause(fix)}."
        super().__init__(text)


def _clause(text: object) -> str:
    """Without the full stop that a sentence of somebody else may have."""
    text = cleaned(str(text)).strip()
    is_sentence = text.endswith(".") and (text[-2:-1].isalnum() or text[-2:-1] in "')")
    return text[:-1] if is_sentence else text


def cleaned(text: str, most: int = _MOST_LETTERS) -> str:
    """A text for a terminal: without control characters, and not too long.

    Names and texts of files get into messages; an escape sequence in them would be
    obeyed by a terminal.
    """
    if len(text) > most:
        text = f"{text[: 2 * most // 3]} [...] {text[-(most // 3) :]}"
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode()
        for c in text
    )


def shown(value: object) -> str:
    """`repr`, also of a number of more digits than Python prints."""
    try:
        return repr(value)
    except ValueError:
        return f"a {type(value).__name__} that is too long to print"


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return cleaned((str(error).strip().splitlines() or [type(error).__name__])[0], 300)


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
            got=f"{what}={shown(received)}",
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
    most = _LARGEST[kind]
    low = -most if negative else 0
    if not is_number or not (low < value <= most or (zero and value == 0)):
        noun = "integer" if kind is int else "number"
        rule = f"a {noun}, 0 or more" if zero else f"a positive {noun}"
        rule = f"a finite {noun}" if negative else rule
        raise UserError(
            f"`{what}` must be {rule}", got=f"{what}={shown(value)}", fix=fix
        )
