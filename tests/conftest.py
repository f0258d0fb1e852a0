"""What unit tests and tests with Ray share: an S3 store."""

import os
from collections.abc import Iterator
from itertools import count

import pytest

from dna_ray.storage import Place
from tests.s3 import CREDENTIALS, Store, served

_NUMBERS = count()

# Ray looks at it when it is imported: metrics are exported every second, not every ten.
EXPORT_INTERVAL = "RAY_metrics_report_interval_ms"
os.environ.setdefault(EXPORT_INTERVAL, "1000")


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
