"""Values: all are documented, and the schema knows just them."""

import json
from typing import Any

import yaml

from helm.rendering import CHART
from helm.table import README, readme_with_table, rows

TEXT = (CHART / "values.yaml").read_text()
VALUES = yaml.load(TEXT, yaml.CSafeLoader)
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
MAPS = {
    "serviceAccount.annotations",
    "classes.cpu.nodeSelector",
    "head.nodeSelector",
    "pods.labels",
    "pods.annotations",
    "pods.affinity",
    "jobs.labels",
    "serving.service.annotations",
    "serving.ingress.annotations",
    "metrics.podMonitor.labels",
    "metrics.dashboard.labels",
    "metrics.alerts.labels",
    "global",
}
"""Their keys are the user's, or Helm's."""


def keys(node: Any, path: str = "") -> set[str]:
    if path in MAPS or not isinstance(node, dict):
        return {path}
    return {key for name, child in node.items() for key in keys(child, f"{path}.{name}".strip("."))}


def allowed(schema: Any, path: str = "") -> set[str]:
    """The keys that a schema knows, with `cpu` for a class of any name."""
    if "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    if path in MAPS or schema.get("type") != "object":
        return {path}
    assert path == "classes" or schema["additionalProperties"] is False, path
    children = schema.get("properties") or {"cpu": schema["additionalProperties"]}
    found = (allowed(child, f"{path}.{name}".strip(".")) for name, child in children.items())
    return set().union(*found)


def test_the_readmes_table_is_current() -> None:
    readme = README.read_text()
    assert readme == readme_with_table(readme, TEXT), "run: python tests/helm/table.py"


def test_every_value_has_a_comment() -> None:
    documented = {key: comment for key, _, comment in rows(TEXT)}
    assert keys(VALUES) - documented.keys() == set()
    assert [key for key, comment in documented.items() if not comment] == []


def test_the_schema_knows_every_value_and_no_other() -> None:
    former = {"jobs.submitter"}  # values of which are accepted, and do nothing
    assert allowed(SCHEMA) - {"global"} - former == keys(VALUES)
