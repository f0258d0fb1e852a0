"""How benchmarks report: a section of Markdown, printed and kept in RESULTS.md."""

import os
import platform
import re
from collections.abc import Iterable, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def machine() -> str:
    """One line: processor, cores, versions, date."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "ray"))
    python = platform.python_version()
    return f"{model}, {os.cpu_count()} cores, Python {python}, {versions}, {date.today()}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def publish(name: str, title: str, text: str, *, write: bool) -> None:
    """Print a section; with `write`, put it into RESULTS.md in place of the one of that name."""
    section = (
        f"<!-- {name} -->\n## {title}\n\n`python -m tests.benchmarks.{name}` on {machine()}\n\n"
        f"{text}\n<!-- /{name} -->"
    )
    print(section)
    if not write:
        return
    whole = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Measurements\n"
    pattern = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
    if pattern.search(whole):
        whole = pattern.sub(lambda _: section, whole)
    else:
        whole = f"{whole}\n{section}\n"
    RESULTS.write_text(whole, encoding="utf-8")
