"""Which objects of a store something still needs: a walk from what people named to payloads.

A payload is needed if a document that is needed refers to it. Any other object is needed if what
it belongs to exists, or is named:

    datasets      versions that have a manifest; what an unfinished import has put there
    models        versions that have a model.json; aliases, tries, indexes
    stages        those that a model version names
    exports       those of a model version's trunk and tail
    weights       those whose SHA-256 a recorded spec, a plan or a model version has
    runs          those that have a marker; of a finished one's checkpoints the latest and the best
                  epoch's, and none inside an epoch
    sweeps        those that have a marker; of a finished one's tails the best, of listed trials
                  all, and no trial's checkpoint
    reports       those that have a marker
    imports, predictions    those that have a spec; of one that is finished or given up, its records
    activations   those that were used lately, of dataset versions that exist
    the rest      jobs, uses, and all that is not ours

What an unfinished run, sweep, import or prediction has stays, whether or not it is at work.
"""

import re
from collections.abc import Collection, Iterable

from graft.activations.index import Index
from graft.import_job import records as imports
from graft.prediction import records as predictions
from graft.registry import ModelVersion
from graft.spec import ListSearch, Sweep
from graft.store import is_payload
from graft.sweep.sweep_records import SweepResult, TrialRecord
from graft.upkeep.contents import SPEC, Contents
from graft.upkeep.policy import Policy
from graft.upkeep.references import Checkpoint

_CHECKPOINT = re.compile(r"(runs/[^/]+/attempt-(\d+)/checkpoints/(\d+))/.+")
_VERSION = re.compile(r"(models/[^/]+/versions/[^/]+)/.+")
_KEPT_OF_IMPORT = re.compile(r"imports/[^/]+/(spec\.yaml|import\.json|head\.json|attempt-.+)")
_KEPT_OF_DRAFT = re.compile(r"predictions/[^/]+/(spec\.yaml|head\.json|attempt-.+)")
_LEASE = re.compile(r"activations/claims/[^/]+")
_PROBE = re.compile(r"probe-[0-9a-f]{32}/.+")
AREAS = (
    *("datasets", "models", "stages", "exports", "weights", "runs", "sweeps", "reports"),
    *("imports", "predictions", "activations"),
)
"""Top folders of which this module knows what they hold; all else stays."""


def reachable(
    contents: Contents, policy: Policy, now: float, given_up: Collection[str] = ()
) -> set[str]:
    """Return the keys that something needs.

    Args:
        contents: of the store.
        policy: when activations and drafts are unused.
        now: the storage's time.
        given_up: folders of drafts that are, whatever was written there since.
    """
    walk = _Walk(contents, policy, now, given_up)
    walk.from_roots()
    return walk.reached


def with_all_referred(contents: Contents, reached: set[str], keys: Iterable[str]) -> set[str]:
    """Return what is reached, with these keys and all that their documents refer to."""
    walk = _Walk(contents, Policy(), 0.0)
    walk.reached = set(reached)
    walk.reach(keys)
    return walk.reached


class _Walk:
    """The walk; `reached` grows until nothing more is referred to."""

    def __init__(
        self, contents: Contents, policy: Policy, now: float, given_up: Collection[str] = ()
    ):
        self._contents, self._policy, self._now = contents, policy, now
        self._given_up = given_up
        self.reached: set[str] = set()

    def from_roots(self) -> None:
        """Walk from all that is needed for itself."""
        contents = self._contents
        rest = (key for key in contents.entries if key.partition("/")[0] not in AREAS)
        self.reach(key for key in rest if not _PROBE.fullmatch(key))
        self._datasets()
        self._models()
        self._weights()
        self._runs()
        self._sweeps()
        self._reports()
        self._imports()
        self._predictions()
        self._activations()

    def reach(self, keys: Iterable[str]) -> None:
        """Reach keys that there are, and what their documents refer to."""
        waiting = list(keys)
        while waiting:
            key = waiting.pop()
            if key in self._contents.entries and key not in self.reached:
                self.reached.add(key)
                waiting += [reference.key for reference in self._contents.references(key)]

    def _reach_records(self, prefix: str) -> None:
        """Reach what begins so and is no payload; payloads as far as these refer to them."""
        self.reach(key for key in self._contents.below(prefix) if not is_payload(key))

    def _has(self, key: str) -> bool:
        return key in self._contents.entries

    def _exists(self, folder: str) -> bool:
        """Whether a run, a sweep or a report has a marker; one that lost its spec is damaged."""
        markers = ("spec.yaml", "result.json", "report.json")
        return any(self._has(f"{folder}{marker}") for marker in markers)

    def _unused_s(self, prefix: str) -> float:
        """Return the seconds since something that begins so was written last."""
        entries = self._contents.entries
        latest = max((entries[key].modified for key in self._contents.below(prefix)), default=0.0)
        return self._now - latest

    def _datasets(self) -> None:
        below = self._contents.below("datasets/")
        self.reach(key for key in below if key.endswith("/manifest.json"))
        self.reach(key for key in below if key.count("/") == 2)  # latest

    def _models(self) -> None:
        for key in self._contents.below("models/"):
            version = _VERSION.fullmatch(key)
            exists = version is None or self._has(f"{version[1]}/model.json")
            if (exists and not is_payload(key)) or key.endswith("/removed.json"):
                self.reach([key])
            if document := self._contents.find(key, ModelVersion):
                self._reach_records(f"exports/{document.trunk_digest}/{document.tail.sha256}/")
                self._reach_records(f"exports/{document.trunk_digest}/trunk/")

    def _weights(self) -> None:
        contents = self._contents
        naming = (key for key in contents.entries if SPEC.fullmatch(key) or _names_weights(key))
        for digest in contents.digests(naming):
            self.reach(contents.below(f"weights/{digest}/"))
        self.reach(["weights/index.json"])

    def _runs(self) -> None:
        contents = self._contents
        self.reach(["runs/index.json"])
        needed = self._of_trials()
        for run in contents.folders("runs/"):
            folder = f"runs/{run}/"
            if not self._exists(folder):
                continue
            finished = self._has(f"{folder}result.json")
            below = contents.below(folder)
            matches = (_CHECKPOINT.fullmatch(key) for key in below if not is_payload(key))
            checkpoints = [match for match in matches if match]
            others = [key for key in below if not _CHECKPOINT.fullmatch(key)]
            if finished:
                others = [key for key in others if not is_payload(key) and "/steps/" not in key]
            self.reach(others)
            if finished:
                self.reach(f"{kept}/checkpoint.json" for kept in self._kept(checkpoints) | needed)
            else:
                self.reach(match[0] for match in checkpoints)

    def _kept(self, checkpoints: Iterable[re.Match[str]]) -> set[str]:
        """Return the folders of a finished run's latest checkpoint, and of its best."""
        markers = [match for match in checkpoints if match[0].endswith("/checkpoint.json")]
        latest = max(markers, key=lambda match: (int(match[3]), int(match[2])), default=None)
        if latest is None:
            return set()
        document = self._contents.find(latest[0], Checkpoint)
        return {latest[1]} | ({document.best} if document and document.best else set())

    def _of_trials(self) -> set[str]:
        """Return what the trials of sweeps recorded as their weights."""
        contents, trials = self._contents, list[TrialRecord | None]()
        for sweep in contents.folders("sweeps/"):
            result = contents.find(f"sweeps/{sweep}/result.json", SweepResult)
            records = contents.below(f"sweeps/{sweep}/trials/") if result is None else []
            trials += result.trials if result else ()
            trials += [contents.find(key, TrialRecord) for key in records]
        return {trial.checkpoint for trial in trials if trial and trial.checkpoint}

    def _sweeps(self) -> None:
        contents = self._contents
        self.reach(["sweeps/index.json"])
        for sweep in contents.folders("sweeps/"):
            folder = f"sweeps/{sweep}/"
            if not self._exists(folder):
                continue
            if not self._has(f"{folder}result.json"):
                self.reach(contents.below(folder))
                continue
            records = (key for key in contents.below(folder) if not is_payload(key))
            self.reach(key for key in records if "/under-way/" not in key)
            result = contents.find(f"{folder}result.json", SweepResult)
            spec = contents.spec(f"{folder}spec.yaml")
            if result and isinstance(spec, Sweep):
                report = sweep.removesuffix("-rates").removesuffix("-seeds")
                tested = report != sweep and self._has(f"reports/{report}/report.json")
                keeps_all = isinstance(spec.search, ListSearch) and not tested
                self.reach(
                    trial.checkpoint
                    for trial in result.trials
                    if trial.checkpoint and (keeps_all or _is_best(trial, result))
                )

    def _reports(self) -> None:
        self.reach(["reports/index.json"])
        for report in self._contents.folders("reports/"):
            folder = f"reports/{report}/"
            if self._exists(folder):
                self._reach_records(folder)

    def _imports(self) -> None:
        contents = self._contents
        for name in contents.folders("imports/"):
            folder = f"imports/{name}/"
            below = contents.below(folder)
            if not self._has(f"{folder}spec.yaml"):
                continue
            ended = self._has(f"{folder}import.json") or self._is_given_up(folder)
            self.reach(key for key in below if not ended or _KEPT_OF_IMPORT.fullmatch(key))
            begun = contents.find(f"{folder}begun.json", imports.Begun)
            if begun and not ended:
                of_version = contents.below(f"datasets/{begun.name}/")
                self.reach(key for key in of_version if begun.token in key)

    def _predictions(self) -> None:
        for name in self._contents.folders("predictions/"):
            folder = f"predictions/{name}/"
            below = self._contents.below(folder)
            if not self._has(f"{folder}spec.yaml"):
                continue
            if self._has(f"{folder}{predictions.MARKER}"):
                self._reach_records(folder)
            elif self._is_given_up(folder):
                self.reach(key for key in below if _KEPT_OF_DRAFT.fullmatch(key))
            else:
                self.reach(below)

    def _is_given_up(self, folder: str) -> bool:
        """Whether nothing was written for so long that an import, or a prediction, is given up."""
        return folder in self._given_up or self._unused_s(folder) > self._policy.drafts_s

    def _activations(self) -> None:
        contents = self._contents
        trained_on = {
            checkpoint.trunk_digest
            for key in contents.below("runs/")
            if not self._has(f"{'/'.join(key.split('/')[:2])}/result.json")
            and (checkpoint := contents.find(key, Checkpoint))
        }
        for trunk in contents.folders("activations/"):
            for kind in contents.folders(f"activations/{trunk}/"):
                folder = f"activations/{trunk}/{kind}/"
                if trunk in trained_on or self._unused_s(folder) <= self._policy.activations_s:
                    self.reach(contents.below(f"{folder}parts/"))
                    self.reach(filter(self._is_of_a_version, contents.below(f"{folder}index/")))
                    self.reach(contents.below(f"{folder}used/")[-1:])

    def _is_of_a_version(self, key: str) -> bool:
        """Whether an index of activations is of a dataset version that exists."""
        index = self._contents.find(key, Index)
        version = index.dataset.replace("@", "/") if index else ""
        return index is None or self._has(f"datasets/{version}/manifest.json")


def _is_best(trial: TrialRecord, result: SweepResult) -> bool:
    return result.best is not None and trial.number == result.best.number


def _names_weights(key: str) -> bool:
    return key.endswith(("/model.json", "/plan.json"))
