"""How a running search looks: bars on a terminal, timed lines in a log file."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dna_ray.progress import View

_SILENCE = 4.0


class _SpeedColumn(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        """Nothing until it is known."""
        return Text(f"{task.speed:.1f} {task.fields['unit']}/s" if task.speed else "")


class TerminalView:
    """One bar for the current stage; finished stages stay as lines above it."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:>15}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _SpeedColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self._console,
            transient=True,
        )
        self._prefix = ""
        self._task = self._bar("start", None, "")

    def _bar(self, title: str, total: int | None, unit: str) -> TaskID:
        """A bar; one without a total pulses."""
        return self._progress.add_task(self._prefix + title, total=total, detail="", unit=unit)

    def start(self) -> None:
        """Take the terminal's last line."""
        self._progress.start()

    def stop(self) -> None:
        """Give it back."""
        self._progress.stop()

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, highlight=False)

    def generation(self, number: int, total: int, teacher: str) -> None:
        """Print a line, and say from now on which generation it is."""
        self.note(f"generation {number} of {total}, teacher: {teacher}")
        self._prefix = f"{number}/{total} "

    def stage(self, title: str, total: int, unit: str) -> None:
        """Begin a new bar."""
        self._progress.remove_task(self._task)
        self._task = self._bar(title, total, unit)

    def advance(self, steps: int, detail: str = "") -> None:
        """Move the bar."""
        if detail:
            self._progress.update(self._task, detail=detail)
        self._progress.advance(self._task, steps)

    def end_stage(self, seconds: float) -> None:
        """Turn the bar into a line."""
        (task,) = self._progress.tasks
        self.note(f"{task.description:>15}  {seconds:7.1f} s")
        self._progress.remove_task(self._task)
        self._task = self._bar("next", None, "")


class LineView:
    """A line when something begins or ends, and one every four seconds between."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._last = self._first_step = 0.0
        self._prefix, self._title, self._unit, self._detail = "", "start", "steps", ""
        self._done, self._total, self._before = 0, 0, 0
        self._thread = threading.Thread(target=self._beat, name="log lines", daemon=True)

    def start(self) -> None:
        """Begin to break silences."""
        self._thread.start()

    def stop(self) -> None:
        """Print no more."""
        self._stop.set()
        self._thread.join()

    def note(self, text: str) -> None:
        """Print one line."""
        with self._lock:
            self._print(text)

    def generation(self, number: int, total: int, teacher: str) -> None:
        """Print one line, and say from now on which generation it is."""
        self.note(f"generation {number} of {total}, teacher: {teacher}")
        self._prefix = f"{number}/{total} "

    def stage(self, title: str, total: int, unit: str) -> None:
        """Say what begins."""
        with self._lock:
            self._title, self._unit, self._detail = self._prefix + title, unit, ""
            self._done, self._total = 0, total
            self._print(f"{self._title}: {total:,} {unit}")

    def advance(self, steps: int, detail: str = "") -> None:
        """Count; the next line says so."""
        with self._lock:
            if not self._done:  # speed counts from here: before it were start-up, or another run
                self._first_step, self._before = time.monotonic(), steps
            self._done += steps
            self._detail = detail or self._detail

    def end_stage(self, seconds: float) -> None:
        """Say what has ended."""
        with self._lock:
            self._print(f"{self._title}: done in {seconds:.1f} s")
            self._title, self._total = f"after {self._title}", 0

    def _beat(self) -> None:
        while not self._stop.wait(0.5):
            with self._lock:
                if time.monotonic() - self._last >= _SILENCE:
                    self._print(self._state())

    def _state(self) -> str:
        if not self._total:
            return f"{self._title}: ..."
        state = f"{self._title}: {self._done:,} of {self._total:,} {self._unit}"
        elapsed = time.monotonic() - self._first_step
        if self._before < self._done < self._total and elapsed > 1:
            speed = (self._done - self._before) / elapsed
            state += f", {speed:.2g}/s, {(self._total - self._done) / speed:.0f} s left"
        return f"{state}; {self._detail}" if self._detail else state

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        print(f"[{self._last - self._start:6.1f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def resumable(how: str) -> Iterator[None]:
    """Note on an interruption of the body how to go on; the command line says so."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(how)
        raise


@contextmanager
def shown() -> Iterator[View]:
    """The view that suits standard error, for as long as the body runs."""
    view = TerminalView() if sys.stderr.isatty() else LineView()
    view.start()
    try:
        yield view
    finally:
        view.stop()
