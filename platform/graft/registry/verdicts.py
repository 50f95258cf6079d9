"""Verdicts: what reports have shown of a version, in ``verdicts/`` beside it."""

import contextlib
from dataclasses import dataclass
from typing import Literal

from graft.errors import InputError, ObjectExists
from graft.registry.versions import ModelVersion
from graft.spec import Id, Section
from graft.store import Store, document_bytes, read_document

Outcome = Literal["better", "worse", "not shown"]
Basis = Literal["shown", "unproven", "forced"]


class Verdict(Section):
    """What a report shows of a version compared with another, or with training from scratch."""

    against: str
    """NAME@VERSION, or `scratch`."""
    outcome: Outcome
    """How the version compares, see `against`."""
    why: str
    """The figures that show it, on one line."""
    report: Id
    """The report's id."""


def record_verdict(store: Store, version: ModelVersion, verdict: Verdict) -> None:
    """Store what a report shows of a version; the first verdict of a report is final."""
    with contextlib.suppress(ObjectExists):
        store.create(
            f"{version.folder}/verdicts/{verdict.report}.json",
            document_bytes(verdict),
        )


def verdicts(store: Store, version: ModelVersion) -> list[Verdict]:
    """Return what reports have shown of a version, by report."""
    keys = [key for key, _ in store.scan(f"{version.folder}/verdicts/")]
    return [read_document(store, key, Verdict) for key in keys]


@dataclass(frozen=True)
class Evidence:
    """What reports show of a version that is to follow a champion."""

    version: ModelVersion
    champion: str | None
    """NAME@VERSION; None: there is none, or it is the version itself."""
    verdicts: tuple[Verdict, ...]
    """Against the champion, and against training from scratch."""

    @classmethod
    def of(cls, store: Store, version: ModelVersion, champion: int | None) -> "Evidence":
        """Collect what the store has on a version, where `champion` is the champion's number."""
        rival = None if champion in (None, version.version) else f"{version.name}@{champion}"
        judged = tuple(v for v in verdicts(store, version) if v.against in ("scratch", rival))
        return cls(version, rival, judged)

    @property
    def lines(self) -> tuple[str, ...]:
        """The verdicts, a line each."""
        return tuple(
            f"{v.outcome}, against {v.against}: {v.why} ({v.report})" for v in self.verdicts
        )

    @property
    def _worse(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.outcome == "worse"]

    def basis(self, force: bool) -> Basis:
        """Return what the move rests on; with `force`, a person insisted."""
        rival = self.champion or "scratch"
        if self._worse:
            return "forced" if force else "unproven"
        shown = any(v.outcome == "better" and v.against == rival for v in self.verdicts)
        return "shown" if shown else "unproven"

    def check(self, force: bool) -> list[str]:
        """Return what is not shown, a line each; without `force` refuse what is shown worse."""
        if self._worse and not force:
            reasons = "; ".join(
                f"worse than {v.against}: {v.why} ({v.report})" for v in self._worse
            )
            raise InputError(
                f"{self.version.ref} is shown to be {reasons}; "
                "promote another version, or insist with --force"
            )
        unshown = [
            f"{self.version.ref} is not shown to be better than {verdict.against}: {verdict.why}"
            for verdict in self.verdicts
            if verdict.outcome == "not shown"
        ]
        if self.champion and self.champion not in {verdict.against for verdict in self.verdicts}:
            unshown.append(
                f"{self.version.ref} was not compared with the champion {self.champion}: "
                f"graft models compare {self.champion} {self.version.ref}"
            )
        return unshown
