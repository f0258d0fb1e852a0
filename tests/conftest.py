"""What unit tests and tests with Ray share: an S3 store."""

import os
from collections.abc import Iterator
from itertools import count

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from dna_ray.storage import Place
from tests.s3 import CREDENTIALS, Store, served

_NUMBERS = count()
_SHARING = ("search_command", "faults", "stability", "verify")
FINISHED = [f"tests/ray/test_{name}.py" for name in _SHARING]

# Ray looks at it when it is imported: metrics are exported every second, not every ten.
EXPORT_INTERVAL = "RAY_metrics_report_interval_ms"
os.environ.setdefault(EXPORT_INTERVAL, "1000")


class Files(LoadScopeScheduling):
    """Files stay whole, and those that look at the one finished search stay together."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "finished" if file in FINISHED else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Files:
    """What goes to which of two processes: starting processes of Ray leaves a processor idle."""
    return Files(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that both processes end at about the same time."""

    def turn(item: pytest.Item) -> int:
        file = item.nodeid.split("::")[0]
        return 0 if file in FINISHED else 1 if "/ray/" in file else 2

    items.sort(key=turn)


def pytest_configure() -> None:
    """Before anything starts a process, so that all have them."""
    os.environ.update(CREDENTIALS)


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    with served() as running:
        Place.of(running.uri("bucket")).make_folder()
        yield running


@pytest.fixture
def s3(store: Store) -> str:
    """The URI of a folder of the test's own that is not there yet."""
    return store.uri(f"bucket/test-{next(_NUMBERS)}")
