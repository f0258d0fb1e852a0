"""A Ray cluster on this machine that asks for a token, and drivers that join it, as processes.

They are apart from the tests' own process, which may be a driver of another Ray.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SERVER = """
import json, os, sys, threading, time
from ray._raylet import GcsClient
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import AutoscalingState
cluster = Cluster(initialize_head=True, head_node_args=json.loads(sys.argv[1]))
print(cluster.address, cluster.webui_url, flush=True)
def refuse():
    head = GcsClient(cluster.address)
    for version in range(1, 1000):
        wanted = get_cluster_resource_state(head).pending_gang_resource_requests
        state = AutoscalingState(autoscaler_state_version=version)
        state.infeasible_gang_resource_requests.extend(wanted)
        head.report_autoscaling_state(state.SerializeToString())
        time.sleep(0.2)
for line in sys.stdin:
    order = json.loads(line)
    if order["cpus"] is None:
        threading.Thread(target=refuse, daemon=True).start()
    else:
        os.environ.update(order["environment"])
        cluster.add_node(num_cpus=order["cpus"])
        for name in order["environment"]:
            del os.environ[name]
    print("done", flush=True)
cluster.shutdown()
"""

# Joins as a search does, runs what is in the place of BODY, and prints what that says.
_DRIVER = """
import json, sys
import ray
from dna_ray.errors import UserError
from dna_ray.progress import Silent
from dna_ray.remote.nodes import check_nodes
from dna_ray.remote.session import session
from dna_ray.storage import Place
class Told(Silent):
    told = []
    def advance(self, steps, detail=""):
        self.told.append(steps)
arguments = json.loads(sys.argv[1])
say = lambda **words: print(json.dumps(words), file=sys.__stdout__, flush=True)
{before}
try:
    with session(Told(), **arguments) as joined:
        {body}
except UserError as error:
    say(refused=str(error))
"""


@dataclass(frozen=True)
class Served:
    """A running cluster whose head has no processors."""

    address: str
    dashboard: str
    environment: dict[str, str]
    process: subprocess.Popen[str]

    def add_node(self, cpus: int, **environment: str) -> None:
        """Start another node, with more in its environment than the cluster's own."""
        self._order(cpus, environment)

    def grow_no_more(self) -> None:
        """Say from now on, as an autoscaler does, that what is asked for is beyond its limits."""
        self._order(None, {})

    def _order(self, cpus: int | None, environment: dict[str, str]) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"cpus": cpus, "environment": environment}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def driver(
        self,
        body: str,
        *,
        before: str = "",
        environment: dict[str, str] | None = None,
        **given: Any,
    ) -> subprocess.Popen[str]:
        """A process that joins with what is `given` to `session`; then it runs `body`."""
        return subprocess.Popen(
            [sys.executable, "-c", script(body, before), json.dumps(given)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | self.environment | (environment or {}),
            cwd=self.environment["TMPDIR"],  # Ray lets workers import from where a driver is
        )


def script(body: str, before: str = "") -> str:
    """A driver's program; its one argument is what `session` is given, as JSON."""
    return _DRIVER.format(body=body, before=before)


def said(driver: subprocess.Popen[str]) -> dict[str, Any]:
    """What a driver printed in the end."""
    out, shown = driver.communicate(timeout=120)
    assert driver.returncode == 0, shown
    words: dict[str, Any] = json.loads(out.splitlines()[-1])
    return words


@contextmanager
def serving() -> Iterator[Served]:
    """A cluster of one node, for as long as the body."""
    head = {"num_cpus": 0, "include_dashboard": True}
    head |= {name: _free_port() for name in ("dashboard_port", "dashboard_agent_listen_port")}
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))  # sockets need a short path
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(),
        "TMPDIR": str(folder),
        "RAY_ADDRESS": "",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, json.dumps(head)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | environment,
    )
    try:
        assert process.stdout is not None
        address, dashboard = process.stdout.readline().removesuffix("\n").split(" ")
        yield Served(address, dashboard, environment, process)
    finally:
        process.communicate(timeout=60)
        shutil.rmtree(folder)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    return port
