"""What a check finds: one damage, what it means to people, and whether it can be mended."""

import re
from dataclasses import dataclass
from enum import StrEnum


class Mend(StrEnum):
    """How something is made again."""

    INDEX = "index"
    """From the markers, by whoever lists next."""
    ACTIVATIONS = "activations"
    """By whoever needs them next."""
    ENGINE = "engine"
    """A graph, or the choice of an engine: by the next server."""
    LATEST = "latest"
    """The pointer to a dataset's newest version."""


@dataclass(frozen=True)
class Damage:
    """Something in a store that is not what it should be."""

    key: str
    found: str
    expected: str
    lost: tuple[str, ...]
    """What cannot be used without it."""
    remedy: str
    mend: Mend | None
    """How `graft fsck --repair` makes it again; None: it cannot."""


INDEX = re.compile(
    r"(runs|sweeps|reports|weights)/index\.json|models/[^/]+/index\.json"
    r"|sweeps/[^/]+/trials-index\.json"
)
_MENDED = {
    Mend.INDEX: INDEX,
    Mend.ACTIVATIONS: re.compile(r"activations/.+"),
    Mend.ENGINE: re.compile(r"exports/.+|models/[^/]+/versions/\d+/engines/.+"),
}
_NAMES = (
    (r"datasets/([^/]+)/([^/]+)/.*", r"dataset \1@\2"),
    (r"datasets/([^/]+)/latest", r"dataset \1"),
    (r"models/([^/]+)/versions/(\d+)/.*", r"model \1@\2"),
    (r"models/([^/]+)/aliases/([^/]+)\.json", r"alias \2 of model \1"),
    (r"models/([^/]+)/.*", r"model \1"),
    (r"(run|sweep|report|job|import|prediction)s/([^/]+)/.*", r"\1 \2"),
    (r"activations/([^/]{12})[^/]*/([^/]+)/.*", r"activations of trunk \1, \2"),
    (r"(stage|export|weight|use)s?/([^/]{12}).*", r"\1 \2"),
)
_BACKUP = "or copy it from another store that has it: graft store copy"
_REMEDIES = (
    (r"datasets/([^/]+)/latest", "graft fsck --repair points it at the newest version"),
    (
        r"datasets/([^/]+)/([^/]+)/.*",
        rf"graft data rm \1@\2 --force and import the same images again, {_BACKUP}",
    ),
    (
        r"models/([^/]+)/versions/(\d+)/decisions/.*",
        r"graft models decide \1@\2 takes its place, or --plain",
    ),
    (
        r"models/([^/]+)/versions/(\d+)/verdicts/.*",
        r"remove it, and compare \1@\2 again: graft models compare",
    ),
    (r"models/([^/]+)/versions/(\d+)/.*", rf"train \1 again and promote that, {_BACKUP}"),
    (
        r"models/([^/]+)/aliases/([^/]+)\.json",
        r"remove it, and set it again: graft models promote \1@VERSION --alias \2",
    ),
    (r"models/([^/]+)/tried/.*", "leave it: what cannot be read counts as one more try"),
    (r"stages/.*", f"train one of these models again: it puts the stage there; {_BACKUP}"),
    (r"weights/([^/]+)/.*", r"remove the folder weights/\1 and run a job that names them again"),
    (r"runs/([^/]+)/.*", rf"graft runs rm \1 --force and train it again, {_BACKUP}"),
    (r"sweeps/([^/]+)/.*", rf"graft sweeps rm \1 and run it again, {_BACKUP}"),
    (r"reports/([^/]+)/.*", rf"graft reports rm \1 --force and make it again, {_BACKUP}"),
    (r"imports/([^/]+)/.*", r"graft data discard \1 and import it again"),
    (r"predictions/([^/]+)/.*", "predict it again: graft predict-batch"),
    (r"jobs/([^/]+)/.*", f"submit it again under another id, {_BACKUP}"),
)


def mend_of(key: str) -> Mend | None:
    """Return how an object is made again, None where it cannot be."""
    return next((mend for mend, keys in _MENDED.items() if keys.fullmatch(key)), None)


def describe(key: str) -> str:
    """Return what an object belongs to, for people."""
    return _rewritten(key, _NAMES) or key


def remedy(key: str, mend: Mend | None) -> str:
    """Return what to do about a damaged object."""
    if mend is not None and mend is not Mend.LATEST:
        return "graft fsck --repair removes it, and it is made again"
    return _rewritten(key, _REMEDIES) or _BACKUP.removeprefix("or ")


def _rewritten(key: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    matches = ((re.fullmatch(pattern, key), text) for pattern, text in rules)
    return next((match.expand(text) for match, text in matches if match), None)
