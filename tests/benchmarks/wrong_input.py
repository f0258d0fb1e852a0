"""Every wrong input of the tests, given to the command as its user would give it.

`clear` counts those that are answered with exit status 2, one line that begins with `error:` and
says what the tests ask for, nothing on standard output, and nothing written.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.report import publish, table
from tests.unit.test_wrong_input import WRONG, Wrong, put_materials, snapshot

COMMAND = Path(sys.executable).with_name("dna-ray")


def answer(wrong: Wrong) -> tuple[str, bool, float]:
    """The last line that a person sees, whether all is as it should be, and after how long."""
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        put_materials(here)
        wrong.place(here)
        before = snapshot(here)
        # Root may write anywhere: for it every write fails.
        full = bool(wrong.shut) and os.access(here / str(wrong.shut), os.W_OK)
        start = time.perf_counter()
        done = subprocess.run(
            [*_command(wrong.hidden), *wrong.words.split(" ")],
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=_write_nothing if full else None,
        )
        seconds = time.perf_counter() - start
        *notes, line = done.stderr.splitlines() or [""]
        clear = done.returncode == 2 and done.stdout == "" and line.startswith("error: ")
        clear &= all(note.startswith("[") for note in notes)
        clear &= all(said in line for said in wrong.said)
        return line, clear and snapshot(here) == before, seconds


def _command(hidden: str | None) -> list[str]:
    """`dna-ray`, or the same where a package is not installed."""
    if hidden is None:
        return [str(COMMAND)]
    script = f"import sys; sys.modules[{hidden!r}] = None; import dna_ray_cli.main as m; m.main()"
    return [sys.executable, "-c", script]


def _write_nothing() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def main() -> None:
    """Try all; print every line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    clear, longest = 0, 0.0
    for wrong in WRONG:
        line, good, seconds = answer(wrong)
        print(f"{'' if good else 'NOT CLEAR '}{wrong.name}\n    {line}", flush=True)
        clear, longest = clear + good, max(longest, seconds)
    rows = [
        ["wrong inputs tried", len(WRONG)],
        ["answered clearly", clear],
        ["longest time to the answer, s", f"{longest:.1f}"],
    ]
    publish("wrong_input", "Wrong input", table(["", ""], rows), write=given.write)


if __name__ == "__main__":
    main()
