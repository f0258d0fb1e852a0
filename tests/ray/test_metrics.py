"""What is told of a run reaches whoever scrapes Ray's nodes, and nobody waits for it."""

import os
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from ray.util.state import get_actor

from dna_ray.progress import Silent
from dna_ray.remote.board import forwarding, start_board
from dna_ray.remote.metrics import METRICS, exported, observe
from dna_ray.remote.session import Session
from dna_ray.remote.tasks import task
from tests.monitoring import metrics_of, queries

HANGS = 90.0  # seconds

# Seconds from one export of Ray to the next. A gauge is forgotten after two.
INTERVAL = "RAY_metrics_report_interval_ms"
EXPORT = float(os.environ.get(INTERVAL, "10000")) / 1000

Series = tuple[str, frozenset[tuple[str, str]]]

TAGS = {"block": "3", "cell": "1", "network": "found", "measure": "accuracy", "role": "teacher"}
TAGS |= {"stage": "distill"}


class Scrape:
    """What the nodes answer: the type of every metric, and the values of those of one run."""

    def __init__(self, run: str) -> None:
        self.types: dict[str, str] = {}
        self.values: Counter[Series] = Counter()
        for node in ray.nodes():
            url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            with urllib.request.urlopen(url, timeout=10) as answer:
                families = list(text_string_to_metric_families(answer.read().decode()))
            for sample, family in ((s, f) for f in families for s in f.samples):
                self.types[sample.name] = family.type
                if sample.labels.get("run") == run:
                    tags = {k: v for k, v in sample.labels.items() if k in TAGS}
                    self.values[sample.name, frozenset(tags.items())] += sample.value

    def value(self, name: str, **tags: str) -> float:
        return self.values[exported(name), frozenset(tags.items())]


def until(seen: Callable[[], Any]) -> Any:
    """What `seen` gives as soon as that is true."""
    end = time.monotonic() + HANGS
    while time.monotonic() < end:
        if result := seen():
            return result
        time.sleep(0.2)
    raise AssertionError("still not seen")


def scraped(run: str, name: str, value: float, **tags: str) -> Scrape:
    """The first scrape in which a metric of a run has the value."""

    def look() -> Scrape | None:
        scrape = Scrape(run)
        return scrape if scrape.value(name, **tags) == value else None

    return until(look)


@pytest.fixture(scope="module")
def told(local: Session) -> Iterator[dict[str, float]]:
    """A number for every metric, all told once to the board of the run 'watched'."""
    board = start_board("watched")
    numbers = {name: index + 1.5 for index, name in enumerate(METRICS)}
    for name, number in numbers.items():
        observe(board, {name: number}, **{tag: TAGS[tag] for tag in METRICS[name].tags})
    yield numbers
    ray.kill(board)


def of_run(told: dict[str, float]) -> dict[Series, float]:
    """The told numbers as they must be scraped."""
    return {
        (exported(name), frozenset((tag, TAGS[tag]) for tag in METRICS[name].tags)): number
        for name, number in told.items()
    }


def test_every_metric_is_scraped_with_its_value_tags_and_type_and_stays(
    told: dict[str, float],
) -> None:
    scrape = until(lambda: s if len((s := Scrape("watched")).values) == len(METRICS) else None)
    assert dict(scrape.values) == of_run(told)
    for name, metric in METRICS.items():
        assert scrape.types[exported(name)] == ("gauge" if metric.kind == "gauge" else "counter")
    time.sleep(3 * EXPORT)
    assert dict(Scrape("watched").values) == of_run(told)


def test_every_query_of_the_dashboard_names_metrics_that_are_scraped(
    told: dict[str, float],
) -> None:
    wanted = {name for query in queries() for name in metrics_of(query)}
    until(lambda: wanted <= Scrape("watched").types.keys())


def test_a_worker_that_dies_and_starts_again_counts_nothing_twice(
    local: Session, tmp_path: Path
) -> None:
    board = start_board("restarted")
    run = task(_count_to_five, name="count", max_retries=1)
    assert ray.get(run.remote([board], tmp_path / "died"), timeout=HANGS)
    scraped("restarted", "cell_steps", 5, block="1", cell="0")
    assert ray.get(board.read.remote()) == (5, "loss of step 5")
    # In another stage, the cell of the same name is another cell.
    ray.get(board.clear.remote())
    observe(board, {"cell_steps": 2}, block=1, cell=0)
    scraped("restarted", "cell_steps", 7, block="1", cell="0")
    ray.kill(board)


def _count_to_five(board: list[Any], died: Path) -> bool:
    for step in range(1, 6):
        observe(board[0], {"cell_steps": step}, block=1, cell=0)
        board[0].put.remote("block 1, cell 0", step, f"loss of step {step}")
        if step == 3 and not died.exists():
            ray.get(board[0].read.remote())  # what was told has arrived
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return died.exists()


class Shown(Silent):
    """A view that adds up."""

    steps = 0

    def advance(self, steps: int, detail: str = "") -> None:
        self.steps += steps


def test_work_goes_on_where_the_board_is_killed_and_another_takes_its_place(
    local: Session,
) -> None:
    board, view = start_board("killed"), Shown()
    with forwarding(board, view):
        board.put.remote("part", 3)
        observe(board, {"paths_rated": 3})
        scraped("killed", "paths_rated", 3)
        actor = get_actor(board._actor_id.hex(), address=f"http://{local.dashboard}")
        assert actor.node_id == ray.get_runtime_context().get_node_id()  # the driver's
        os.kill(actor.pid, signal.SIGKILL)

        def told_again() -> bool:
            board.put.remote("part", 5)
            return view.steps == 5

        until(told_again)
        observe(board, {"paths_rated": 4})
        scraped("killed", "paths_rated", 7)
    assert view.steps == 5
    ray.kill(board)
