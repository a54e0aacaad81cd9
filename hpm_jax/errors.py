"""Errors that a person can act on: the command prints them as one sentence, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can change; the message names the value and says what to do."""

    exit_code = 1  # of the command that the error ends


class ConfigError(UserError, ValueError):
    """A config that cannot run."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """The end of an error message: the closest of the choices, or all of them."""
    choices = [str(choice) for choice in choices]
    close = difflib.get_close_matches(word, choices, n=1)
    return f": did you mean {close[0]!r}?" if close else f": choose from {', '.join(choices)}."


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """`value`, or an error that names the closest choice.

    Raises:
        ConfigError: where `value` is not one of `choices`.
    """
    if value not in choices:
        raise ConfigError(f"{name} = {value!r} does not exist{nearest(value, choices)}")
    return value
