"""The policies of `clusters/iam/`: known actions, nothing on everything, and enough for a run.

That they allow what Ray calls and no more is in test_clusters.py.
"""

import json
from pathlib import Path

import boto3
import botocore.session
import pytest

from dna_ray.storage import Place
from tests.cloud import actions, policy
from tests.s3 import Store

# Actions that are no operations: they allow what other operations do.
NO_OPERATIONS = {"iam:PassRole", "s3:ListBucket"}


def test_every_action_is_one_that_its_service_knows_and_none_is_allowed_on_everything() -> None:
    models = botocore.session.get_session()
    for name in ("head", "launcher", "storage", "trust"):
        for action in actions(name) - NO_OPERATIONS:
            service, operation = action.split(":")
            assert operation in models.get_service_model(service).operation_names
        for statement in json.loads(policy(name))["Statement"]:
            if "*" in statement.get("Resource", ()):  # what only tells has no resource to name
                assert all(action.startswith("ec2:Describe") for action in statement["Action"])


def test_the_policy_of_the_store_is_enough_for_a_run_folder_and_for_reading_data(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"endpoint_url": store.endpoint, "region_name": "us-east-1"}
    s3, iam = boto3.client("s3", **options), boto3.client("iam", **options)
    for bucket in ("runs", "pictures"):
        s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket="pictures", Key="train/1.png", Body=b"picture")
    iam.create_user(UserName="node")
    # What AWS counts as listing, to ask whether a bucket is there, has a name of its own in moto.
    document = policy("storage").replace('"s3:ListBucket"', '"s3:ListBucket", "s3:HeadBucket"')
    iam.put_user_policy(UserName="node", PolicyName="storage", PolicyDocument=document)
    key = iam.create_access_key(UserName="node")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    monkeypatch.setattr("dna_ray.storage._PAUSES", ())
    run, data = Place.of(store.uri("runs/first")), Place.of(store.uri("pictures/train"))
    with store.refusing():
        run.make_folder()
        (run / "manifest.json").write(b"{}")
        (run / "large").write(bytes(12_000_000))  # in several parts
        assert (run / "manifest.json").read() == b"{}"
        assert [Path(info.path).name for info in run.inside()] == ["large", "manifest.json"]
        (run / "large").remove()
        assert (data / "1.png").read() == b"picture"
        assert len(data.inside()) == 1
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            (data / "2.png").write(b"")
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            (data / "1.png").remove()
