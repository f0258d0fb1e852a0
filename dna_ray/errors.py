"""What a user can be told: one line that says what must hold, what was given and what to do."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class UserError(Exception):
    """The input is wrong. The command line prints the message alone and exits with status 2."""


class StoppedError(Exception):
    """A run ended at what is no wrong input, and can go on; the message says how.

    Raised from what ended it. The command line prints both and exits with status 1.
    """


@contextmanager
def noted(place: str) -> Iterator[None]:
    """Add to whatever fails in the body where that was, such as a stage, or a block and cell.

    The notes travel with an exception from a worker to the driver; the command line shows them.
    """
    try:
        yield
    except Exception as error:
        error.add_note(place)
        raise


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all that led to it, down through the wrappers of Ray."""
    yield error
    inner = [getattr(error, name, None) for name in ("cause", "controller_failure", "__cause__")]
    inner += list(getattr(error, "worker_failures", {}).values())
    for cause in inner:
        # Ray raises some errors from themselves.
        if isinstance(cause, BaseException) and cause is not error:
            yield from causes(cause)
            return


def nearest(name: str, valid: Iterable[str], otherwise: str | None = None) -> str:
    """A hint that names the valid word most like `name`.

    Where none is like it, the hint is `otherwise`, or lists all words.
    """
    words = sorted(valid)
    close = get_close_matches(name, words, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"choose one of {', '.join(words)}" if otherwise is None else otherwise


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """While a file that a user named is read: raise UserError that calls it `what`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{what} must be readable, but '{path}' is not: {reason}") from None


def read_text(path: Path, what: str) -> str:
    """The text of a file that a user named; raises UserError that calls it `what`."""
    try:
        with readable(path, what):
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{what} must be text in UTF-8, but '{path}' is not") from None
