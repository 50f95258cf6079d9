"""Which images a model version was trained and tuned on: they do not judge it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from graft.backbones.weights import MODEL_SCHEME
from graft.data.index import Images
from graft.data.manifest import open_dataset
from graft.data.subset import choose_subset
from graft.errors import NotFoundError
from graft.registry import ModelVersion, get_model
from graft.spec import Dataset
from graft.store import Store


@dataclass(frozen=True)
class Seen:
    """The images that a version was trained and tuned on."""

    version: str
    """NAME@VERSION."""
    dataset: str
    """NAME@VERSION."""
    roles: Mapping[str, str] | None
    """By SHA-256, what an image did; None: the dataset is not in the store."""


def seen_by(store: Store, version: ModelVersion) -> list[Seen]:
    """Return what a version was trained and tuned on, and the versions that it started from."""
    lineage = version.lineage
    name = f"{lineage.dataset}@{lineage.dataset_version}"
    recorded = lineage.spec.get("dataset")
    try:
        dataset = open_dataset(store, lineage.dataset, lineage.dataset_version)
    except NotFoundError:
        seen = Seen(version.ref, name, None)
    else:
        spec = Dataset.model_validate(recorded) if recorded else Dataset(name=lineage.dataset)
        subset = choose_subset(dataset, spec)
        seen = Seen(version.ref, name, roles_of(subset.train, subset.val))
    return [seen, *seen_by_weights(store, lineage.weights)]


def seen_by_weights(store: Store, weights: str) -> list[Seen]:
    """Return what initial weights, as recorded, were trained and tuned on: a model version's."""
    if not weights.startswith(MODEL_SCHEME):
        return []
    ref = weights.removeprefix(MODEL_SCHEME)
    try:
        return seen_by(store, get_model(store, ref))
    except NotFoundError:
        return [Seen(ref, "an unknown dataset", None)]


def roles_of(train: Images, val: Images) -> dict[str, str]:
    """Return by SHA-256 what images did; one that did both has trained, which says more."""
    chose = "chose the epoch, rate or depth of"
    roles = dict.fromkeys(val.sha256, chose)
    return roles | dict.fromkeys(train.sha256, "trained")


def told_apart(digests: Sequence[str], seen: Iterable[Seen]) -> tuple[list[bool], list[str]]:
    """Return which images nobody has seen, and of the others which they are, a line each."""
    unseen, lines = [True] * len(digests), []
    for by_version in seen:
        if by_version.roles is None:
            unseen = [False] * len(digests)
            lines.append(
                f"all images: what {by_version.version} was tuned on is not known, since "
                f"{by_version.dataset} is not in the store"
            )
            continue
        roles = [by_version.roles.get(digest) for digest in digests]
        unseen = [fresh and not role for fresh, role in zip(unseen, roles, strict=True)]
        for role in sorted({role for role in roles if role}):
            lines.append(
                f"{roles.count(role):,} of {len(digests):,} images {role} {by_version.version} "
                f"(images of {by_version.dataset})"
            )
    return unseen, lines
