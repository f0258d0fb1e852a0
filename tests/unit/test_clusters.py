"""The files of `clusters/`, as far as Ray's own code and a mocked AWS can take them.

Without a cloud, nothing shows that an image boots, that SSH reaches it, or that pip finds its
packages there.
"""

import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from packaging.requirements import Requirement
from packaging.version import Version
from ray.autoscaler._private import commands
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.v2.autoscaler import Autoscaler
from ray.autoscaler.v2.instance_manager.config import FileConfigReader
from ray.core.generated import autoscaler_pb2
from ray.scripts.scripts import start

from tests.cloud import CLUSTERS, REGION, ROOT, Cloud, Gcs, actions, ec2, mocked, read, watch


@pytest.fixture(scope="module")
def aws() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # there are thousands
        with mocked():
            yield


@pytest.fixture
def cloud(aws: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    here = Cloud(tmp_path / "laptop", tmp_path / "head")
    for name, text in {".ray/auth_token": "token", ".ssh/id_ed25519": "key"}.items():
        (here.laptop / name).parent.mkdir(parents=True)
        (here.laptop / name).write_text(text)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(here.laptop))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with monkeypatch.context() as patch:
        watch(here, patch)
        yield here
    for instance in here.instances():
        instance.terminate()
    for pair in ec2().key_pairs.all():
        pair.delete()  # its other half was on the laptop


@pytest.mark.parametrize("name", ["aws.yaml", "local.yaml"])
def test_ray_accepts_the_file_and_refuses_a_word_it_does_not_know(name: str) -> None:
    validate_config(prepare_config(read(name)))
    with pytest.raises(Exception, match="setup_comands"):
        validate_config(prepare_config(read(name) | {"setup_comands": []}))


def test_every_word_of_a_node_is_one_that_ec2_knows() -> None:
    models = botocore.session.get_session().get_service_model("ec2")
    launch = models.operation_model("RunInstances").input_shape

    def wrong(node: dict[str, Any]) -> str:
        node = node | {"MinCount": 1, "MaxCount": 1}
        return str(ParamValidator().validate(node, launch).generate_report())

    for kind in read("aws.yaml")["available_node_types"].values():
        assert wrong(kind["node_config"]) == ""
    typo = deepcopy(read("aws.yaml")["available_node_types"]["worker"]["node_config"])
    typo["MetadataOptions"]["HttpToken"] = "required"
    assert "HttpToken" in wrong(typo)


def test_ray_up_makes_a_head_that_only_ssh_reaches(cloud: Cloud) -> None:
    config = cloud.up("aws.yaml")
    (head,) = cloud.instances()
    assert head.instance_type == "m6i.2xlarge"
    assert head.instance_lifecycle is None
    assert head.iam_instance_profile["Arn"].endswith("instance-profile/dna-ray-head")
    assert head.metadata_options["HttpTokens"] == "required"
    assert head.metadata_options["HttpPutResponseHopLimit"] == 1
    assert all(volume.encrypted for volume in head.volumes.all())
    group = ec2().SecurityGroup(head.security_groups[0]["GroupId"])
    public = [rule for rule in group.ip_permissions if rule["IpRanges"] or rule["Ipv6Ranges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in public] == [(22, 22)]
    (within,) = [rule for rule in group.ip_permissions if rule not in public]
    assert [pair["GroupId"] for pair in within["UserIdGroupPairs"]] == [group.id]
    (update,) = cloud.updates
    assert update["node_resources"] == {"CPU": 0}
    given = read("aws.yaml")
    assert update["setup_commands"] == given["setup_commands"] + given["head_setup_commands"]
    assert (cloud.head / ".ray" / "auth_token").read_text() == "token"
    kinds = config["available_node_types"]
    assert [kinds["worker"]["resources"][name] for name in ("CPU", "GPU")] == [8, 1]
    assert [kind["min_workers"] for kind in kinds.values()] == [0, 0]


def test_the_policy_of_who_launches_allows_what_ray_up_and_ray_down_call_and_no_more(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = [{"Name": "group-name", "Values": ["ray-autoscaler-dna-ray"]}]
    for group in ec2().security_groups.filter(Filters=name):
        group.delete()  # of another test
    cloud.calls.clear()
    cloud.up("aws.yaml")
    monkeypatch.setattr(commands, "exec_cluster", lambda *_, **__: None)
    commands.teardown_cluster(str(CLUSTERS / "aws.yaml"), True, False, None, False)
    asked = set(cloud.calls)
    assert cloud.instances() == []
    assert actions("launcher") == {*asked, "iam:PassRole"}


def until(scaler: Autoscaler, condition: Callable[[], Any]) -> None:
    """Let an autoscaler look at the cluster again and again."""
    for _ in range(200):
        if condition():
            return
        assert scaler.update_autoscaling_state() is not None
        time.sleep(0.02)
    pytest.fail("the autoscaler did not do what it should")


@pytest.mark.parametrize("refusal", [None, "InsufficientInstanceCapacity"])
def test_workers_are_spot_or_where_that_cannot_be_had_on_demand_and_idle_ones_go(
    refusal: str | None, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.up("aws.yaml")
    (head,) = cloud.instances()
    monkeypatch.setenv("HOME", str(cloud.head))
    cloud.calls.clear()
    cloud.refusal = refusal
    gcs = Gcs(head.id)
    reader = FileConfigReader(str(cloud.head / "ray_bootstrap_config.yaml"))
    scaler = Autoscaler("session", reader, gcs)
    gcs.wanted = 8
    until(scaler, lambda: len(cloud.updates) == 2)
    (worker,) = [instance for instance in cloud.instances() if instance != head]
    assert worker.instance_type == "g5.2xlarge"
    assert worker.instance_lifecycle == (None if refusal else "spot")
    assert worker.metadata_options["HttpTokens"] == "required"
    assert worker.security_groups == head.security_groups
    update, given = cloud.updates[1], read("aws.yaml")
    commands = given["setup_commands"] + given["worker_setup_commands"]
    last = update["setup_commands"][-len(commands) :]  # Ray runs the common ones twice
    assert last == [f"export RAY_HEAD_IP=10.0.0.1; {command}" for command in commands]
    assert update["cluster_synced_files"] == ["~/versions.txt"]
    assert update["node_resources"]["GPU"] == 1

    gcs.wanted, name = 0, b"w" * 28
    gcs.nodes[name] = (worker.id, "worker", autoscaler_pb2.RUNNING, 0)
    for _ in range(3):
        scaler.update_autoscaling_state()
    assert len(cloud.instances()) == 2
    gcs.nodes[name] = (worker.id, "worker", autoscaler_pb2.IDLE, 301_000)
    until(scaler, lambda: gcs.drained == [name.hex()])
    gcs.nodes[name] = (worker.id, "worker", autoscaler_pb2.DEAD, 0)
    until(scaler, lambda: cloud.instances() == [head])
    assert actions("head") == {*cloud.calls, "iam:PassRole"}


@pytest.mark.parametrize("refusal", ["UnauthorizedOperation", "InvalidAMIID.NotFound"])
def test_a_launch_that_is_wrong_in_itself_is_not_tried_on_demand(
    refusal: str, cloud: Cloud
) -> None:
    config = cloud.up("aws.yaml")
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    cloud.refusal = refusal
    tags = {"ray-node-type": "worker", "ray-launch-config": ""}
    with pytest.raises(NodeLaunchException, match=refusal):
        provider.create_node(config["available_node_types"]["worker"]["node_config"], tags, 1)
    assert len(cloud.instances()) == 1


def test_ray_up_on_own_machines_keeps_all_of_them(cloud: Cloud) -> None:
    config = cloud.up("local.yaml")
    (update,) = cloud.updates
    assert update["node_id"] == read("local.yaml")["provider"]["head_ip"]
    assert (cloud.head / ".ray" / "auth_token").read_text() == "token"
    (kind,) = config["available_node_types"].values()
    assert kind["min_workers"] == config["max_workers"] == 2


@pytest.mark.parametrize("name", ["aws.yaml", "local.yaml"])
@pytest.mark.parametrize("node", ["head", "worker"])
def test_a_node_that_is_set_up_once_or_again_starts_with_the_token(
    name: str, node: str, tmp_path: Path
) -> None:
    tools = tmp_path / "venv" / "bin"
    tools.mkdir(parents=True)
    for tool in ("python", "pip", "ray"):
        (tools / tool).write_text(f'#!/bin/sh\necho {tool} $RAY_AUTH_MODE "$@" >> ~/log\n')
        (tools / tool).chmod(0o755)
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("token")
    (tmp_path / ".bashrc").write_text("")
    config = read(name)
    setup = config["setup_commands"] + config[f"{node}_setup_commands"]
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "RAY_HEAD_IP": "10.0.0.1"}
    for command in [*setup, *setup, *config[f"{node}_start_ray_commands"]]:
        subprocess.run(["bash", "-c", command], env=environment, check=True, timeout=20)
    assert token.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / ".bashrc").read_text().count("RAY_AUTH_MODE=token") == 1
    stop, begin = (tmp_path / "log").read_text().splitlines()[-2:]
    assert stop == "ray stop"
    program, mode, command, *options = shlex.split(begin)
    assert (program, mode, command) == ("ray", "token", "start")
    given = start.make_context("start", options).params
    expected = {"head": True, "dashboard_host": "127.0.0.1", "address": None}
    if node == "worker":
        expected = {"head": False, "address": "10.0.0.1:6379"}
    assert given | expected == given


# The fields of KubeRay's custom resources that may occur here, by the reference of its API, v1.6.
FIELDS = {
    "spec": "activeDeadlineSeconds backoffLimit entrypoint rayClusterSpec runtimeEnvYAML "
    "shutdownAfterJobFinishes submissionMode ttlSecondsAfterFinished",
    "rayClusterSpec": "authOptions autoscalerOptions enableInTreeAutoscaling headGroupSpec "
    "rayVersion workerGroupSpecs",
    "authOptions": "mode secretName",
    "autoscalerOptions": "idleTimeoutSeconds resources upscalingMode version",
    "headGroupSpec": "rayStartParams serviceType template",
    "workerGroupSpecs": "groupName maxReplicas minReplicas rayStartParams replicas template",
}


def test_the_job_of_kuberay_has_known_fields_and_a_token() -> None:
    job = read("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    parts = {"spec": job["spec"], "rayClusterSpec": cluster} | cluster
    for name, fields in FIELDS.items():
        part = workers if name == "workerGroupSpecs" else parts[name]
        assert set(part) <= set(fields.split())
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert (workers["minReplicas"], workers["replicas"]) == (0, 0)
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_the_image_has_the_version_of_ray_that_the_job_says_and_the_project_allows() -> None:
    cluster = read("rayjob.yaml")["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = {c["image"] for g in groups for c in g["template"]["spec"]["containers"]}
    assert images == {f"dna-ray:{cluster['rayVersion']}"}
    dockerfile = (CLUSTERS / "Dockerfile").read_text()
    assert f"ARG RAY={cluster['rayVersion']}\n" in dockerfile
    copied = [line.split()[2:-1] for line in dockerfile.splitlines() if line.startswith("COPY")]
    assert all((ROOT / name).exists() for names in copied for name in names)
    project = (ROOT / "pyproject.toml").read_text().splitlines()
    (ray,) = (Requirement(line.strip('", ')) for line in project if '"ray[' in line)
    assert ray.specifier.contains(Version(cluster["rayVersion"]))
