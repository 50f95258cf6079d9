"""JSON schemas of Kubernetes' and KubeRay's own, a file a kind, for kubeconform.

Made once from Kubernetes' OpenAPI document and the CRDs that tests/programs.py keeps. Stricter
than a server is by default: a field that is not known is an error, as with strict validation.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from programs import VERSIONS, folder

CRDS = {"kuberay-files": "config/crd/bases", "gateway-api-files": "config/crd/standard"}
SOURCES = ("kubernetes-files", *CRDS)
LOCATION = "{{.ResourceKind}}{{.KindSuffix}}.json"
"""How kubeconform finds a kind's file; KindSuffix is -<first part of the group>-<version>."""
REFERENCE = "#/definitions/"

Schema = dict[str, Any]


def schema_folder() -> Path:
    """Return the folder of schemas, which is filled where it is not there yet."""
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    name = f"{VERSIONS['KUBERNETES']}-{VERSIONS['KUBERAY']}-{own}"
    made = Path(__file__).parents[2] / ".cache" / "schemas" / name
    if made.is_dir():
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    being_made = Path(tempfile.mkdtemp(dir=made.parent))
    for group, version, kind, schema in _kinds():
        parts = [kind, group.partition(".")[0], version]
        name = "-".join(part.lower() for part in parts if part)
        (being_made / f"{name}.json").write_text(json.dumps(schema))
    try:
        os.rename(being_made, made)
    except OSError:  # another process was first
        shutil.rmtree(being_made)
    return made


def _kinds() -> Iterator[tuple[str, str, str, Schema]]:
    """Yield group, version, kind and schema."""
    document = folder("kubernetes-files") / "api/openapi-spec/swagger.json"
    definitions = json.loads(document.read_text())["definitions"]
    kinds = {
        (one["group"], one["version"], one["kind"]): name
        for name, definition in definitions.items()
        for one in definition.get("x-kubernetes-group-version-kind", [])
        if "metadata" in definition.get("properties", {})
    }
    definitions = {name: _strict(definition) for name, definition in definitions.items()}
    integer_or_string = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
    definitions[integer_or_string] = {"type": ["integer", "string"]}
    for (group, version, kind), name in kinds.items():
        needed = {one: definitions[one] for one in _reachable(name, definitions)}
        yield group, version, kind, {"$ref": REFERENCE + name, "definitions": needed}
    for path in (one for source, crds in CRDS.items() for one in (folder(source) / crds).iterdir()):
        crd = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]
        for one in crd["versions"]:
            schema = _strict(one["schema"]["openAPIV3Schema"])
            yield crd["group"], one["name"], crd["names"]["kind"], schema


def _strict(node: Any) -> Any:
    """Return a schema without descriptions, whose objects have no other keys than those named."""
    if isinstance(node, list):
        return [_strict(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {
        key: _strict(value)
        for key, value in node.items()
        if not (key == "description" and isinstance(value, str))
    }
    is_object = node.get("type") == "object" and isinstance(node.get("properties"), dict)
    if is_object and not node.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def _reachable(name: str, definitions: dict[str, Schema]) -> set[str]:
    """Return the names of the definitions that one needs, with itself."""
    found: set[str] = set()
    todo = [name]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += _references(definitions[name])
    return found


def _references(node: Any) -> Iterator[str]:
    children = node if isinstance(node, list) else node.values() if isinstance(node, dict) else ()
    if isinstance(node, dict) and isinstance(node.get("$ref"), str):
        yield node["$ref"].removeprefix(REFERENCE)
    for child in children:
        yield from _references(child)
