"""A mocked AWS in which `ray up` and Ray's autoscaler work, but for what they do over SSH."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from moto import mock_aws
from ray.autoscaler._private import commands
from ray.autoscaler._private.aws import node_provider, utils
from ray.autoscaler.sdk import create_or_update_cluster
from ray.autoscaler.v2.instance_manager import ray_installer
from ray.core.generated import autoscaler_pb2

ROOT = Path(__file__).parents[1]
CLUSTERS = ROOT / "clusters"
REGION = "us-west-2"


def read(name: str) -> dict[str, Any]:
    """A file of `clusters/`."""
    config: dict[str, Any] = yaml.safe_load((CLUSTERS / name).read_text())
    return config


def policy(name: str) -> str:
    """A policy of `clusters/iam/` with all that is left open in it filled in."""
    text = (CLUSTERS / "iam" / f"{name}.json").read_text()
    for word, value in {"REGION": REGION, "ACCOUNT": "123456789012"}.items():
        text = text.replace(word, value)
    return text.replace("RUN_BUCKET", "runs").replace("DATA_BUCKET", "pictures")


def actions(name: str) -> set[str]:
    """What a policy allows."""
    allowed: set[str] = set()
    for statement in json.loads(policy(name))["Statement"]:
        assert statement["Effect"] == "Allow"
        words = statement["Action"]
        allowed |= {words} if isinstance(words, str) else set(words)
    return allowed


@dataclass
class Cloud:
    """What AWS was asked, and a laptop and the head's disk as far as `ray up` fills it."""

    laptop: Path
    head: Path
    calls: list[str] = field(default_factory=list)  # as policies call them
    updates: list[dict[str, Any]] = field(default_factory=list)  # how Ray would set nodes up
    refusal: str | None = None  # EC2's error code for every request for spot

    def up(self, name: str) -> dict[str, Any]:
        """`ray up` with a file of `clusters/`; the configuration that Ray made of it."""
        path = str(CLUSTERS / name)
        config: dict[str, Any] = create_or_update_cluster(path, no_config_cache=True)
        return config

    def instances(self) -> list[Any]:
        """All that run."""
        running = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
        return list(ec2().instances.filter(Filters=running))


def ec2() -> Any:
    """Ray's own way to EC2; another one would take a moment to make."""
    return utils.resource_cache("ec2", REGION)


@contextmanager
def mocked() -> Iterator[None]:
    """AWS for as long as the body, with roles and profiles as clusters/README.md says."""
    utils.resource_cache.cache_clear()
    with mock_aws():
        iam = boto3.client("iam")
        for name, policies in {"head": ["storage", "head"], "worker": ["storage"]}.items():
            role = f"dna-ray-{name}"
            iam.create_role(RoleName=role, AssumeRolePolicyDocument=policy("trust"))
            for each in policies:
                iam.put_role_policy(RoleName=role, PolicyName=each, PolicyDocument=policy(each))
            iam.create_instance_profile(InstanceProfileName=role)
            iam.add_role_to_instance_profile(InstanceProfileName=role, RoleName=role)
        yield
    utils.resource_cache.cache_clear()


def watch(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record what is asked of AWS, and let nodes be set up without SSH."""
    call = BaseClient._make_api_call

    def recorded(client: Any, operation: str, words: dict[str, Any]) -> Any:
        cloud.calls.append(f"{client.meta.service_model.service_name}:{operation}")
        if operation == "DescribeInstanceTypes":  # of all that there are it would take seconds
            words = words | {"InstanceTypes": ["g5.2xlarge", "m6i.2xlarge"]}
        if cloud.refusal and operation == "RunInstances" and "InstanceMarketOptions" in words:
            raise ClientError({"Error": {"Code": cloud.refusal, "Message": "no"}}, operation)
        return call(client, operation, words)

    class Updater(threading.Thread):
        """Does what Ray's does for a node, but on no node."""

        exitcode = 0

        def __init__(self, **words: Any) -> None:
            super().__init__()
            self.words = words

        def run(self) -> None:
            if self.words["is_head_node"]:
                for remote, local in self.words["file_mounts"].items():
                    put(Path(local).expanduser(), cloud.head / remote.removeprefix("~/"))
            cloud.updates.append(self.words)
            tags = {"ray-node-status": "up-to-date"}
            self.words["provider"].set_node_tags(self.words["node_id"], tags)

    monkeypatch.setattr(BaseClient, "_make_api_call", recorded)
    monkeypatch.setattr(commands, "NodeUpdaterThread", Updater)
    monkeypatch.setattr(ray_installer, "NodeUpdater", Updater)
    monkeypatch.setattr(node_provider, "TAG_BATCH_DELAY", 0)


def put(local: Path, there: Path) -> None:
    """As rsync does, but of folders only that they are there."""
    there.parent.mkdir(parents=True, exist_ok=True)
    if local.is_file():
        shutil.copy(local, there)
    else:
        there.mkdir(exist_ok=True)


class Gcs:
    """What an autoscaler sees of a cluster through Ray's control store."""

    address = "10.0.0.1:6379"

    def __init__(self, head: str) -> None:
        self.nodes = {b"h" * 28: (head, "head", autoscaler_pb2.RUNNING, 0)}
        self.wanted = 0  # processors, as by a search that waits for room
        self.drained: list[str] = []

    def get_cluster_resource_state(self) -> bytes:
        """All nodes, and what is asked for."""
        reply = autoscaler_pb2.GetClusterResourceStateReply()
        state = reply.cluster_resource_state
        state.cluster_session_name = "session"
        for name, (instance, kind, status, idle) in self.nodes.items():
            node = state.node_states.add(node_id=name, instance_id=instance, status=status)
            node.ray_node_type_name, node.idle_duration_ms = kind, idle
            node.total_resources["CPU"] = 8 if kind == "worker" else 0
            if kind == "head":
                node.total_resources["node:__internal_head__"] = 1
        if self.wanted:
            group = state.pending_gang_resource_requests.add()
            for requests in (group.requests, group.bundle_selectors.add().resource_requests):
                requests.add().resources_bundle["CPU"] = self.wanted
        return bytes(reply.SerializeToString())

    def drain_node(self, node_id: str, **_: Any) -> tuple[bool, str]:
        """A node shall end what it does and do no more."""
        self.drained.append(node_id)
        return True, ""
