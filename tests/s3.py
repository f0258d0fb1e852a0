"""An S3 store of the tests' own: moto's server on this machine, which other processes reach too."""

import logging
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from moto.server import ThreadedMotoServer

# What makes every S3 client of a process ask nobody else who it is.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}

_NEVER = float("inf")


@dataclass(frozen=True)
class Store:
    """A running server."""

    endpoint: str

    def uri(self, path: str) -> str:
        """The URI of a bucket or of something in it."""
        options = f"endpoint_override={self.endpoint}&region=us-east-1&allow_bucket_creation=true"
        return f"s3://{path}?{options}"

    @contextmanager
    def refusing(self, after: int = 0) -> Iterator[None]:
        """Answer `after` more requests; then know nobody's credentials until the body ends."""
        self.refuse(after)
        try:
            yield
        finally:
            self.refuse(_NEVER)

    def refuse(self, after: float) -> None:
        """Answer `after` more requests, and refuse all that come later."""
        where, form = f"{self.endpoint}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        request = urllib.request.Request(where, str(after).encode(), form)
        urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def served() -> Iterator[Store]:
    """A server on a free port, for as long as the body."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Store(f"http://{host}:{port}")
    finally:
        server.stop()
