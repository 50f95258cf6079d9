"""The policies of docs/s3-policies.md, on a real S3 server: each allows what it says alone."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

import commands
from conftest import S3Server
from graft.activations.lease import hold_lease
from graft.errors import StoreDenied, StoreError
from graft.registry import get_model, promote
from graft.serving.engines.choice import choice_key
from graft.serving.predictor import Predictor
from graft.store import Store
from models import register_model

PAGE = Path(__file__).parents[2] / "docs" / "s3-policies.md"
As = Callable[[str], dict[str, str]]


@pytest.fixture
def credentials(s3_server: S3Server, bucket: str) -> As:
    """Return a function from a role of the page to the environment of somebody who has it."""
    if not s3_server.fences:
        pytest.skip("moto heeds no policies")

    def of(role: str) -> dict[str, str]:
        (policy,) = re.findall(rf"^```json {role}\n(.*?)^```", PAGE.read_text(), re.S | re.M)
        policy = policy.replace("BUCKET", bucket).replace("PREFIX", "policies")
        answer = (
            boto3.session.Session()
            .client("sts", region_name="us-east-1")
            .assume_role(RoleArn="arn:aws:iam::1:role/tests", RoleSessionName=role, Policy=policy)
        )
        given = answer["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
            "AWS_SESSION_TOKEN": given["SessionToken"],
        }

    return of


def opened(uri: str, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Store:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Store.open(uri)


@pytest.mark.slow
def test_who_may_move_the_champion_and_who_may_only_read(
    bucket: str,
    credentials: As,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = f"s3://{bucket}/policies"
    roles = {role: credentials(role) for role in ("trainer", "promoter", "server")}
    trainer = opened(uri, monkeypatch, roles["trainer"])
    register_model(trainer, "ants-bees", "run-1")
    promote(trainer, "ants-bees@1", "candidate")
    with pytest.raises(StoreDenied, match="may not move champion of ants-bees; whoever may prom"):
        promote(trainer, "ants-bees@1", "champion")
    said = commands.main("models", "promote", "ants-bees@1", "--store", uri)
    assert said.returncode == 2
    assert "these credentials may not move champion of ants-bees" in said.stderr

    promoter = opened(uri, monkeypatch, roles["promoter"])
    promote(promoter, "ants-bees@1", "champion")
    with pytest.raises(StoreDenied):
        register_model(promoter, "ants-bees", "run-2")
    with pytest.raises(StoreDenied):
        promoter.write("datasets/x/latest", b"")

    server = opened(uri, monkeypatch, roles["server"])
    version = get_model(server, "ants-bees")
    Predictor.load(server, version)
    with hold_lease(server, f"{choice_key(version, 'web')}.lease"):
        server.create(choice_key(version, "web"), b"{}")
    server.put(f"exports/{version.trunk_digest}/{version.tail.sha256}", "graph.onnx", b"graph")
    with pytest.raises(StoreDenied):
        promote(server, "ants-bees@1", "other")
    with pytest.raises(StoreError, match="access denied"):
        server.read("datasets/x/latest")


def test_policies_are_json() -> None:
    policies = re.findall(r"^```json \w+\n(.*?)^```", PAGE.read_text(), re.S | re.M)
    assert [json.loads(policy)["Version"] for policy in policies] == ["2012-10-17"] * 3
