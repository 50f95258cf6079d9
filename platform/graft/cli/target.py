"""Which cluster and which store a command on jobs means."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.output import console
from graft.errors import InputError

if TYPE_CHECKING:
    from graft.cluster.profile import Profile
    from graft.cluster.target import Target
    from graft.cluster.watch import Jobs
    from graft.store import Store

Context = Annotated[
    str | None, typer.Option("--kube-context", metavar="NAME", help="Of the kubeconfig.")
]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", metavar="NAME", help="Default: the context's.")
]
ProfileName = Annotated[
    str | None,
    typer.Option("--profile", metavar="NAME", help="Where the namespace has several."),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="A running Ray cluster's dashboard instead; its token: RAY_AUTH_TOKEN."
    ),
]
OwnStore = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="GRAFT_STORE",
        metavar="URI",
        help="Where jobs at --address keep everything; in a namespace the profile names it.",
    ),
]


def note(text: str) -> None:
    """Tell the user something that is no error."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def open_target(
    context: str | None,
    namespace: str | None,
    profile: str | None,
    address: str | None,
    store: str | None,
) -> "tuple[Target, Store]":
    """Return the cluster that a command means and the store that its jobs use.

    Raises:
        InputError: there is none, or it cannot be used.
    """
    from graft.store import Store

    if address:
        if context or namespace or profile:
            raise InputError(
                "--address is a running Ray cluster; it goes without --kube-context, --namespace "
                "and --profile"
            )
        if not store:
            raise InputError("--address needs --store (or GRAFT_STORE): the cluster's store")
        from graft.cluster.rayapi import RayJobs

        opened = Store.open(store)
        return RayJobs(address, opened.uri), opened
    from graft.cluster.kube import Kube
    from graft.cluster.kubejobs import KubeJobs, find_profile

    kube = Kube.connect(context, namespace)
    found, uid = find_profile(kube, profile)
    return KubeJobs(kube, found, uid), _store_of(found)


def open_jobs(
    context: str | None,
    namespace: str | None,
    profile: str | None,
    address: str | None,
    store: str | None,
) -> "Jobs":
    """Return the jobs of the cluster and the store, or of the one that can be reached."""
    from graft.cluster.submit import reachable
    from graft.cluster.watch import Jobs
    from graft.store import Store

    try:
        target, opened = open_target(context, namespace, profile, address, store)
    except InputError as error:
        if not store or context or namespace or profile or address:
            raise
        note(f"from the store alone, which may be behind: {error}")
        return Jobs(None, Store.open(store))
    if problem := reachable(opened):
        note(f"the store cannot be used from here: {problem}")
        return Jobs(target, None)
    return Jobs(target, opened)


def _store_of(profile: "Profile") -> "Store":
    """Open a profile's store, with the user's own credentials."""
    from graft.store import Store

    if profile.store_endpoint:
        os.environ.setdefault("AWS_ENDPOINT_URL", profile.store_endpoint)
    return Store.open(profile.store)
