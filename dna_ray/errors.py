"""What a user can be told: one line that says what must hold, what was given and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """The input is wrong. The command line prints the message alone and exits with status 2."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint that names the valid word most like `name`, or lists all of them."""
    words = sorted(valid)
    close = get_close_matches(name, words, n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(words)}"
