"""Verdicts: what reports have shown of a version, in ``verdicts/`` beside it.

``verdicts/corrected/<report>.json`` has a p-value; ``verdicts/<report>.json`` has none, and shows
nothing: seeds were too few, or an earlier release wrote it, which judged on images that had tuned a
version, and corrected nothing for the number of comparisons.
"""

import contextlib
from dataclasses import dataclass
from typing import ClassVar, Literal

from graft.errors import InputError, ObjectExists
from graft.registry.versions import ModelVersion
from graft.spec import Id, Section
from graft.store import Store, document_bytes, read_document

Outcome = Literal["better", "worse", "not shown"]
Basis = Literal["shown", "unproven", "forced"]


class Verdict(Section):
    """What a report shows of a version compared with another, or with training from scratch."""

    FORMAT: ClassVar[int] = 2
    """1: it had no p-value."""

    against: str
    """NAME@VERSION, or `scratch`."""
    outcome: Outcome
    """How the version compares, see `against`, by the report's own words."""
    p_value: float | None = None
    """Of the comparison, corrected for those that were made with it; null: as the module says."""
    why: str
    """The figures that show it, on one line."""
    report: Id
    """The report's id."""

    @property
    def shown(self) -> Outcome:
        """What counts of the outcome: without a p-value nothing is shown."""
        return "not shown" if self.p_value is None else self.outcome

    @property
    def grounds(self) -> str:
        """The figures, and of an earlier release what it took them to show."""
        if self.shown == self.outcome:
            return self.why
        return (
            f"{self.why}; it was called {self.outcome} by a release that did not correct what it "
            "compared, so this shows nothing"
        )


def record_verdict(store: Store, version: ModelVersion, verdict: Verdict) -> None:
    """Store what a report shows of a version; its first verdict with a p-value is final."""
    folder = "verdicts" if verdict.p_value is None else "verdicts/corrected"
    with contextlib.suppress(ObjectExists):
        store.create(f"{version.folder}/{folder}/{verdict.report}.json", document_bytes(verdict))


def verdicts(store: Store, version: ModelVersion) -> list[Verdict]:
    """Return what reports have shown of a version, by report."""
    keys = [key for key, _ in store.scan(f"{version.folder}/verdicts/")]
    found = [read_document(store, key, Verdict) for key in keys]
    by_report = {verdict.report: verdict for verdict in found}
    by_report |= {verdict.report: verdict for verdict in found if verdict.p_value is not None}
    return [by_report[report] for report in sorted(by_report)]


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
            f"{v.shown}, against {v.against}: {v.grounds} ({v.report})" for v in self.verdicts
        )

    @property
    def _worse(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.shown == "worse"]

    def basis(self, force: bool) -> Basis:
        """Return what the move rests on; with `force`, a person insisted."""
        rival = self.champion or "scratch"
        if self._worse:
            return "forced" if force else "unproven"
        shown = any(v.shown == "better" and v.against == rival for v in self.verdicts)
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
            f"{self.version.ref} is not shown to be better than {v.against}: {v.grounds}"
            for v in self.verdicts
            if v.shown == "not shown"
        ]
        if self.champion and self.champion not in {verdict.against for verdict in self.verdicts}:
            unshown.append(
                f"{self.version.ref} was not compared with the champion {self.champion}: "
                f"graft models compare {self.champion} {self.version.ref}"
            )
        return unshown
