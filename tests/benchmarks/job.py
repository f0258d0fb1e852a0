"""The main job as a user runs it: `dna-ray search --generations 3` on the embedded default.

Wall time by stage, what comes out, the longest silence on standard error, and the peak memory of
all processes of the run: proportional set sizes, in which a page that several processes share, such
as the object store's, counts once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.report import publish, table

COMMAND = Path(sys.executable).with_name("dna-ray")
STAGES = ("adapt", "features", "distill", "rate", "search", "tune", "retrain")


class Memory:
    """Samples the memory of all processes that were not there at first."""

    def __init__(self) -> None:
        self.peak = 0
        self._before = {p.pid for p in psutil.process_iter()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._stop.wait(5.0):
            self.peak = max(self.peak, self._sample())

    def _sample(self) -> int:
        total = 0
        for process in psutil.process_iter():
            if process.pid not in self._before:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue  # it ended between the listing and the reading
        return total

    def stop(self) -> int:
        """The peak in bytes."""
        self._stop.set()
        self._thread.join()
        return self.peak


def run(arguments: list[str]) -> tuple[dict[str, Any], float, float, float, int]:
    """The JSON, wall seconds, seconds to the first line, longest silence, peak bytes."""
    memory = Memory()
    start = last = time.perf_counter()
    first = silence = 0.0
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            [COMMAND, "search", "--json", *arguments], stdout=out, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        for line in process.stderr:
            now = time.perf_counter()
            first = first or now - start
            silence, last = max(silence, now - last), now
            sys.stderr.write(line)
        if process.wait() != 0:
            sys.exit(f"the search ended with status {process.returncode}")
        out.seek(0)
        tree: dict[str, Any] = json.loads(out.read())
    return tree, time.perf_counter() - start, first, silence, memory.stop()


def main() -> None:
    """Run the job and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--out", type=Path, help="where to keep the run folder")
    parser.add_argument("rest", nargs="*", help="more arguments for dna-ray search")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder) / "run"
        tree, wall, first, silence, peak = run(
            ["--generations", "3", "--out", str(out), *given.rest]
        )
        report = (out / "report.html").stat().st_size
    rows = [
        [
            g["generation"],
            *(f"{g['seconds'][s]:.1f}" for s in STAGES),
            f"{sum(g['seconds'].values()):.1f}",
        ]
        for g in tree["generations"]
    ]
    stages = table(["generation", *(f"{s}, s" for s in STAGES), "all, s"], rows)
    names = list(tree["generations"][0]["metrics"]["found"])
    quality = [
        [f"{g['generation']} {role}", *(_number(metrics[n]) for n in names)]
        for g in tree["generations"]
        for role, metrics in g["metrics"].items()
    ]
    found = "\n".join(f"- {g['generation']}: `{g['architecture']}`" for g in tree["generations"])
    text = (
        f"Wall time {wall / 60:.1f} minutes; first line after {first:.1f} s; longest silence "
        f"{silence:.1f} s; peak memory of all processes {peak / 2**30:.2f} GiB; report.html "
        f"{report / 1000:,.0f} KB.\n\n{stages}\n\n"
        f"{table(['network', *names], quality)}\n\nFound:\n\n{found}"
    )
    publish("job", "The main job: three generations", text, write=given.write)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


if __name__ == "__main__":
    main()
