"""The driver killed with SIGKILL at moments of every stage, resumed each time, in one run.

In the end every record must be the undisturbed run's, byte for byte. `lost` is the time from the
newest record or checkpoint in the run folder to the kill: what is done again. `gone` is when the
last process of the search, of Ray too, has ended.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests import tiny
from tests.benchmarks.report import publish, table

COMMAND = Path(sys.executable).with_name("dna-ray")
MOMENTS = [  # what is killed, and the file of the run folder at whose appearance
    ("while pictures are decoded", "manifest.json"),
    ("while the teacher is adapted", "working/adapt-teacher"),
    ("when the teacher is adapted", "teacher.safetensors"),
    ("when distilling begins", "working/distill-generation-1"),
    ("after an epoch", "working/distill-generation-1/checkpoint_*/*.pt"),
    ("when rating begins", "generation-1/cells.safetensors"),
    ("when Tune begins", "generation-1/architecture.json"),
    ("when retraining begins", "working/retrain-generation-1"),
    ("after a pass", "working/retrain-generation-1/checkpoint_*/*.pt"),
    ("when all is trained", "generation-1/model.safetensors"),
]
RECORDS = [
    "generation-1/cells.safetensors",
    "generation-1/ratings.parquet",
    "generation-1/front.parquet",
    "generation-1/architecture.json",
    "generation-1/tune.json",
    "generation-1/model.safetensors",
    "generation-1/metrics.jsonl",
]


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    """A search in the background."""
    return subprocess.Popen(
        [COMMAND, "search", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def newest(run: Path) -> float:
    """When the newest record or checkpoint was written."""
    files = [
        f for pattern in ("*", "generation-1/*", "working/*/*/*.pt") for f in run.glob(pattern)
    ]
    return max(f.stat().st_mtime for f in files if f.is_file())


def kill_at(search: subprocess.Popen[bytes], run: Path, pattern: str) -> tuple[float, float]:
    """Kill the driver when a file appears; seconds of work lost, and until all processes ended."""
    while not any(run.glob(pattern)):
        if search.poll() is not None:
            sys.exit(f"the search ended with {search.returncode} before {pattern} was there")
        time.sleep(0.05)
    family = psutil.Process(search.pid).children(recursive=True)
    search.kill()
    killed = time.time()
    lost = max(0.0, killed - newest(run))
    search.wait()
    while alive := [process for process in family if _runs(process)]:
        if time.time() - killed > 120:
            sys.exit(f"after two minutes these are still there: {alive}")
        time.sleep(0.1)
    return lost, time.time() - killed


def _runs(process: psutil.Process) -> bool:
    """Whether a process is more than an entry that its parent has not read yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def content(file: Path) -> object:
    """What two runs must have in common in a record: not the seconds in the metrics."""
    if file.suffix != ".jsonl":
        return file.read_bytes()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return sorted(json.dumps({k: v for k, v in r.items() if k != "seconds"}) for r in rows)


def main() -> None:
    """Run undisturbed, then with all kills, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny.put_task(folder)
        task = tiny.words(folder)
        if start(*task, "--out", folder / "whole").wait() != 0:
            sys.exit("the undisturbed search failed")
        run = folder / "killed"
        rows = []
        search = start(*task, "--out", run)
        for title, pattern in MOMENTS:
            lost, gone = kill_at(search, run, pattern)
            rows.append([title, f"{lost:.1f}", f"{gone:.1f}"])
            print(rows[-1], flush=True)
            search = start("--resume", run)
        if search.wait() != 0:
            sys.exit("the last resume failed")
        same = all(content(folder / "whole" / r) == content(run / r) for r in RECORDS)
    text = f"{table(['killed', 'lost, s', 'gone, s'], rows)}\n\nAll records the same: {same}"
    publish("kills", "The driver killed and resumed", text, write=given.write)


if __name__ == "__main__":
    main()
