"""A job's id, which is a name in Kubernetes too."""

import re

from graft.errors import SpecError
from graft.store.recorded_specs import id_ending

JOB_ID = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
LONGEST_ID = 47
"""Characters of an id: KubeRay appends to a RayJob's name, and Kubernetes takes 63."""


def new_id(name: str) -> str:
    """Return a new job id that begins with a spec's name, in letters that Kubernetes allows."""
    ending = id_ending()
    plain = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    if not plain[:1].isalpha():
        plain = f"job-{plain}"
    return plain[: LONGEST_ID - len(ending)].rstrip("-") + ending


def check_id(job: str) -> None:
    """Find out whether a job may have this id.

    Raises:
        SpecError: Kubernetes does not allow it as a name.
    """
    if not JOB_ID.fullmatch(job) or len(job) > LONGEST_ID:
        raise SpecError(
            f"job id '{job}': expected a name for Kubernetes: lower-case letters, digits and '-', "
            f"a letter first, at most {LONGEST_ID} characters"
        )
