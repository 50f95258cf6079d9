"""Which cluster, and which store, a command on jobs means."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.show.output import note
from graft.errors import InputError

if TYPE_CHECKING:
    from graft.cluster.cluster_jobs import ClusterJobs
    from graft.cluster.job_overview import Jobs
    from graft.cluster.profile import Profile
    from graft.store import Store


@dataclass(frozen=True)
class PodOptions:
    """What a person may choose for a job's pods that the spec does not say."""

    resource_class: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="Resource class of the workers' pods."),
    ] = None
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="One that the profile allows.")
    ] = None


@dataclass(frozen=True)
class ClusterOptions:
    """The options that choose a cluster; a command takes them by `grouped_options`."""

    context: Annotated[
        str | None, typer.Option("--kube-context", metavar="NAME", help="Of the kubeconfig.")
    ] = None
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", metavar="NAME", help="Default: the context's."),
    ] = None
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            metavar="NAME",
            help="Where the namespace has several; else the one of GRAFT_PROFILE.",
        ),
    ] = None
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="URL",
            help="A running Ray cluster's dashboard instead; its token: RAY_AUTH_TOKEN.",
        ),
    ] = None
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            envvar="GRAFT_STORE",
            metavar="URI",
            help="Where jobs at --address keep everything; in a namespace the profile names it.",
        ),
    ] = None

    def open_target(self) -> "tuple[ClusterJobs, Store]":
        """Return the cluster and the store that its jobs use.

        Raises:
            InputError: there is no such cluster, or it cannot be used.
        """
        from graft.store import Store

        if self.address:
            if self._names_namespace:
                raise InputError(
                    "--address is a running Ray cluster; it goes without --kube-context, "
                    "--namespace and --profile"
                )
            if not self.store:
                raise InputError("--address needs --store (or GRAFT_STORE): the cluster's store")
            from graft.cluster.ray_jobs import RayJobs

            store = Store.open(self.store)
            return RayJobs(self.address, store.uri), store
        from graft.cluster.kubernetes_api import Kube
        from graft.cluster.kubernetes_jobs import KubeJobs, find_profile

        kube = Kube.connect(self.context, self.namespace)
        profile, identity = find_profile(kube, self.profile or os.environ.get("GRAFT_PROFILE"))
        return KubeJobs(kube, profile, identity), _store_of(profile)

    def open_jobs(self) -> "Jobs":
        """Return the jobs of the cluster and of its store, or of the one that can be reached."""
        from graft.cluster.job_inputs import store_problem
        from graft.cluster.job_overview import Jobs
        from graft.store import Store

        try:
            target, store = self.open_target()
        except InputError as error:
            if not self.store or self.address or self._names_namespace:
                raise
            note(f"from the store alone, which may be behind: {error}")
            return Jobs(None, Store.open(self.store))
        if problem := store_problem(store, target.store_is_volume):
            note(f"the store cannot be used from here: {problem}")
            return Jobs(target, None)
        return Jobs(target, store)

    @property
    def _names_namespace(self) -> bool:
        return bool(self.context or self.namespace or self.profile)


def _store_of(profile: "Profile") -> "Store":
    """Open a profile's store, with the user's own credentials."""
    from graft.store import Store

    if profile.store_endpoint:
        os.environ.setdefault("AWS_ENDPOINT_URL", profile.store_endpoint)
    return Store.open(profile.store)
