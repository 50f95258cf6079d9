"""Which scenarios touch what has changed: reads paths, a line each; prints beginnings of names.

    git log --since='1 day ago' --name-only --format= | python3 tests/cluster/e2e/touched.py

Any Python runs this: only the standard library, no .venv.
"""

import sys
from collections.abc import Iterable

_JOBS = ("head", "node_of", "preempted", "job", "cluster_lost", "wrong", "image")
TOUCHED = {
    "platform/graft/cluster": _JOBS,
    "platform/graft/demo": ("demo",),
    "platform/graft/report": ("transfer", "evaluation"),
    "platform/graft/sweep": ("sweep",),
    "platform/graft/store": _JOBS,
    "platform/graft/training": ("head", "preempted", "sweep"),
    "deploy": ("ray_job", "charts"),
    "helm": ("charts", "image", "wrong", "two", "upgrade"),
    "jobs": ("demo", "evaluation", "sweep", "transfer"),
}
"""Beginning of a path -> beginnings of scenarios' names; those of every landing are not here."""


def touched(paths: Iterable[str]) -> list[str]:
    """Return beginnings of the names of scenarios that what lies at these paths takes part in."""
    changed = list(paths)
    found = [
        name
        for begins, names in TOUCHED.items()
        if any(path.startswith(begins) for path in changed)
        for name in names
    ]
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    print(",".join(touched(sys.stdin.read().split())))
