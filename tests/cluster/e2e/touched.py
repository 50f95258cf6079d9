"""Which scenarios touch what has changed: reads paths, a line each; prints beginnings of names.

    git log --since='1 day ago' --name-only --format= | python3 tests/cluster/e2e/touched.py COMMIT

A commit begins at a place of its own in the list: where there is no time for all of them, each
has its turn. Any Python runs this: only the standard library, no .venv.
"""

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[3]
_JOBS = ("head", "node_of", "preempted", "job", "cluster_lost", "wrong", "image")
_SERVING = ("two_models", "serving_pods", "upgrade")
TOUCHED = {
    "platform/graft/cluster": _JOBS,
    "platform/graft/demo": ("demo",),
    "platform/graft/import_job": ("import",),
    "platform/graft/parts": ("import", "prediction"),
    "platform/graft/prediction": ("prediction",),
    "platform/graft/report": ("transfer", "evaluation"),
    "platform/graft/serving": _SERVING,
    "platform/graft/sweep": ("sweep",),
    "platform/graft/store": _JOBS,
    "platform/graft/training": ("head", "preempted", "sweep"),
    "deploy": ("ray_job", "charts"),
    "helm": ("charts", "image", "wrong", "two", "upgrade"),
    "jobs": ("demo", "evaluation", "import", "prediction", "sweep", "transfer"),
}
"""Beginning of a path -> beginnings of scenarios' names; those of every landing are not here."""
_SCENARIOS = "tests/cluster/e2e/test_"


def touched(paths: Iterable[str], commit: str = "0") -> list[str]:
    """Return beginnings of the names of scenarios that what lies at these paths takes part in."""
    changed = set(paths)
    found = [
        name
        for begins, names in TOUCHED.items()
        if any(path.startswith(begins) for path in changed)
        for name in names
    ]
    for path in sorted(path for path in changed if path.startswith(_SCENARIOS)):
        found += scenarios(ROOT / path)
    names = list(dict.fromkeys(found))
    first = int(commit, 16) % len(names) if names else 0
    return names[first:] + names[:first]


def scenarios(file: Path) -> list[str]:
    """Return the names of a file's scenarios that take a node; none where it is gone."""
    body = ast.parse(file.read_text()).body if file.exists() else []
    marks = [ast.unparse(node) for node in body if isinstance(node, ast.Assign)]
    if not any("mark.e2e" in mark and "control_plane" not in mark for mark in marks):
        return []
    return [
        node.name.removeprefix("test_")
        for node in body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if not any("control_plane" in ast.unparse(mark) for mark in node.decorator_list)
    ]


if __name__ == "__main__":
    print(",".join(touched(sys.stdin.read().split(), *sys.argv[1:])))
