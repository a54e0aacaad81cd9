"""Errors that a user can fix; the command prints them as one sentence, without a traceback."""

import contextlib
import difflib
import sys
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """An error that the user can fix; the message has the value and what to do."""

    exit_code = 1  # exit code of the command


class ConfigError(UserError, ValueError):
    """An invalid config."""


@contextlib.contextmanager
def one_sentence(*others: type[Exception]) -> Iterator[None]:
    """Ends a command with `error: ...` and exit code 1 at a `UserError`, without a traceback.

    Args:
        others: exceptions that are printed in the same way.
    """
    caught: tuple[type[Exception], ...] = (UserError, *others)
    try:
        yield
    except caught as error:
        sys.exit(f"error: {error}")


def nearest(word: str, choices: Iterable[str]) -> str:
    """Returns the end of an error message: the closest of the choices, or all of them."""
    choices = [str(choice) for choice in choices]
    close = difflib.get_close_matches(word, choices, n=1)
    return f": did you mean {close[0]!r}?" if close else f": choose from {', '.join(choices)}."


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """Returns `value` if it is one of the choices; the error names the closest one.

    Raises:
        ConfigError: if `value` is not one of `choices`.
    """
    if value not in list(choices):  # `in` on a mapping needs a hashable value
        raise ConfigError(f"{name} = {value!r} does not exist{nearest(str(value), choices)}")
    return value
