"""What Kubernetes with KubeRay would refuse, by their own schemas.

They are Kubernetes' OpenAPI document and the CRDs that tests/programs.py keeps. Stricter than a
server is by default: a field that is not known is an error, as with strict validation.
"""

import functools
import json
from collections.abc import Iterable
from typing import Any

import yaml
from jsonschema import Draft4Validator

from programs import folder

CRDS = {"kuberay-files": "config/crd/bases", "gateway-api-files": "config/crd/standard"}
SOURCES = ("kubernetes-files", *CRDS)

Schema = dict[str, Any]


def refusals(objects: Iterable[dict[str, Any]]) -> list[str]:
    """Return what is wrong with objects, a line each."""
    return [
        f"{one['kind']} {one['metadata']['name']}: {error.json_path}: {error.message}"
        for one in objects
        for error in _validator(one["apiVersion"], one["kind"]).iter_errors(one)
    ]


@functools.cache
def _validator(api_version: str, kind: str) -> Draft4Validator:
    *group, version = api_version.split("/")
    sought = {"group": "".join(group), "version": version, "kind": kind}
    definitions = _kubernetes()
    for name, definition in definitions.items():
        if sought in definition.get("x-kubernetes-group-version-kind", []):
            return Draft4Validator({"$ref": f"#/definitions/{name}", "definitions": definitions})
    for source, crds in CRDS.items():
        for path in (folder(source) / crds).glob(f"{sought['group']}_{kind.lower()}*.yaml"):
            crd = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]
            for one in crd["versions"]:
                if (one["name"], crd["names"]["kind"]) == (version, kind):
                    return Draft4Validator(_strict(one["schema"]["openAPIV3Schema"]))
    raise LookupError(f"no schema for {kind} of {api_version}")


@functools.cache
def _kubernetes() -> dict[str, Schema]:
    document = folder("kubernetes-files") / "api/openapi-spec/swagger.json"
    definitions = json.loads(document.read_text())["definitions"]
    integer_or_string = {
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["integer", "string"]}
    }
    return {name: _strict(one) for name, one in definitions.items()} | integer_or_string


def _strict(node: Any) -> Any:
    """Return a schema whose objects have no other keys than those named."""
    if isinstance(node, list):
        return [_strict(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: _strict(value) for key, value in node.items()}
    is_object = node.get("type") == "object" and isinstance(node.get("properties"), dict)
    if is_object and not node.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made
