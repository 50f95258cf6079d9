"""Whether a process belongs to a Ray that Graft has started, on this machine alone."""

import os

OWN_RAY = "GRAFT_OWN_RAY"
"""Environment variable that is set in all processes of such a Ray."""


def on_own_ray() -> bool:
    """Whether this process belongs to such a Ray; that has no dashboard."""
    return OWN_RAY in os.environ
