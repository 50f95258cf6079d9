"""The raised cluster, as the scenarios use it."""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from helm.program import helm
from programs import program

T = TypeVar("T")
_GRAFT = Path(sys.executable).with_name("graft")


@dataclass(frozen=True)
class Cluster:
    """Where things are, and how to ask for them. This process is in the cluster's network: it
    reaches pods and Services by address, and Services as NAME.NAMESPACE.svc.cluster.local.
    """

    kubeconfig: str
    api: str
    """The API server's URL."""
    node: str
    """The name of the one node."""
    has_node: bool
    """Whether there is more to it than the name; if not, pods are made and never run."""
    image: str
    """Graft's image, which is on the node: pods take it with `imagePullPolicy: Never`."""
    store: str
    """URI of an empty store on S3."""
    environment: dict[str, str]
    """The AWS variables that reach the store, from here and from pods."""

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl; return what it prints. A failure raises with what it said."""
        return self._run(program("kubectl"), *arguments, stdin=stdin)

    def helm(self, *arguments: str) -> str:
        """Run helm; return what it prints. A failure raises with what it said."""
        found = helm()
        assert found, "`python -m cluster.e2e` sees to it that there is one"
        return self._run(found, *arguments)

    def graft(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run graft as a person at this machine would; its exit code is yours to judge."""
        return subprocess.run(
            [_GRAFT, *arguments],
            env=self.variables() | environment,
            capture_output=True,
            text=True,
        )

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        """Start graft; what it prints is to be read, and it to be waited for."""
        return subprocess.Popen(
            [_GRAFT, *arguments],
            env=self.variables() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def variables(self) -> dict[str, str]:
        """Return this process's environment with kubeconfig and store."""
        own = {"KUBECONFIG": self.kubeconfig, "GRAFT_STORE": self.store}
        return os.environ | own | self.environment

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Apply manifests."""
        everything = {"apiVersion": "v1", "kind": "List", "items": manifests}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(everything))

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """Return an object; {} where there is none."""
        found = self.kubectl(
            *("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        )
        return json.loads(found) if found else {}

    def managed_fields(
        self, kind: str, name: str, namespace: str = "default"
    ) -> list[dict[str, Any]]:
        """Return who has set which fields of an object."""
        words = ("get", kind, name, "-n", namespace, "-o", "json", "--show-managed-fields")
        found: list[dict[str, Any]] = json.loads(self.kubectl(*words))["metadata"]["managedFields"]
        return found

    def find(
        self, kind: str, namespace: str = "default", selector: str = ""
    ) -> list[dict[str, Any]]:
        """Return the objects of a kind that a label selector matches."""
        found = self.kubectl("get", kind, "-n", namespace, "-l", selector, "-o", "json")
        return json.loads(found)["items"]

    @contextlib.contextmanager
    def namespace(self, prefix: str, security: str = "restricted") -> Iterator[str]:
        """Make a namespace for a scenario; it goes, with all that is in it, when that is over.

        `security`: the pod security standard that its pods are held to.
        """
        name = f"{prefix}-{uuid.uuid4().hex[:6]}"
        self.kubectl("create", "namespace", name)
        self.kubectl("label", "namespace", name, f"pod-security.kubernetes.io/enforce={security}")
        try:
            self.wait_for(
                "its service account", lambda: self.get("serviceaccount", "default", name)
            )
            yield name
        finally:
            # Pods that run are waited for, also those of serving, which take up to 100 s to drain:
            # the next scenario needs what they have.
            ending = "--timeout=240s" if self.has_node else "--wait=false"
            self.kubectl("delete", "namespace", name, ending)

    def wait_for(self, what: str, condition: Callable[[], T], seconds: float = 60) -> T:
        """Poll until the condition gives something true, and return that."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
            time.sleep(0.5)
        return value

    def _run(self, *command: str | Path, stdin: str | None = None) -> str:
        done = subprocess.run(
            command, env=self.variables(), input=stdin, capture_output=True, text=True
        )
        if done.returncode:
            words = " ".join(map(str, command[1:]))
            raise AssertionError(f"{Path(command[0]).name} {words}: {done.stderr.strip()}")
        return done.stdout
