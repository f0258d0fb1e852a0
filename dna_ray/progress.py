"""What a running search tells whoever watches it."""

from typing import Protocol


class View(Protocol):
    """Something that shows the progress of a search: a terminal, a log file, a test."""

    def note(self, text: str) -> None:
        """Show one line that stays."""

    def generation(self, number: int, total: int, teacher: str) -> None:
        """A generation begins, with this teacher."""

    def stage(self, title: str, total: int, unit: str) -> None:
        """A stage begins that will take `total` steps, called `unit`."""

    def advance(self, steps: int, detail: str = "") -> None:
        """Some more steps of the current stage are done."""

    def end_stage(self, seconds: float) -> None:
        """The current stage is done."""


class Silent:
    """A view that shows nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def generation(self, number: int, total: int, teacher: str) -> None:
        """Show nothing."""

    def stage(self, title: str, total: int, unit: str) -> None:
        """Show nothing."""

    def advance(self, steps: int, detail: str = "") -> None:
        """Show nothing."""

    def end_stage(self, seconds: float) -> None:
        """Show nothing."""
