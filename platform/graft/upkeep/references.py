"""What refers to what in a store: each kind of document, and what it cannot do without.

    alias, latest, decision          -> the version that they are of
    model.json                       -> tail, golden, stages/<digest>/stage.json
    manifest.json                    -> index, originals, shards, those of earlier versions too
    stage.json, weights.json, the marker of a graph, of a cell, of a report  -> their files
    checkpoint.json                  -> tensors, confusion, the best epoch's checkpoint.json
    checkpoint.json in an epoch      -> tensors; of a trial -> its state
    result.json of a run             -> confusion and its picture
    result.json of a sweep           -> the weights of its best trial
    index/*.json, parts/*.json       -> shards and rows of activations
    begun.json, part-<n>.json, prediction.json   -> inputs, staged files, answers

Models whose own modules load torch are written down here once more, as far as they refer to
something: who looks after a store needs no torch.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from graft.activations.index import Index
from graft.cluster.job_records import JobRecord
from graft.data.manifest import Manifest
from graft.import_job import records as imports
from graft.prediction import records as predictions
from graft.registry import Alias, ModelVersion, Verdict
from graft.report.publishing import Report
from graft.report.uses import Use
from graft.spec import Digest, Id, Ref
from graft.store import FileName, Marker, ObjectRef
from graft.sweep.sweep_plan import SweepPlan
from graft.sweep.sweep_records import SweepResult, TrialRecord
from graft.training.amendments import Amendments
from graft.training.attempt_pointer import AttemptPointer
from graft.training.run_records import Epoch, Result
from graft.training.stalls import Stall
from graft.training.step_checkpoint import StepCheckpoint


@dataclass(frozen=True)
class Reference:
    """That a document cannot do without an object."""

    key: str
    size: int | None = None
    """Bytes; None: of a document, which may have any."""
    sha256: str | None = None


class _Other(BaseModel):
    """As far as a document refers to something."""

    model_config = ConfigDict(frozen=True, extra="allow")


class _OtherMarker(_Other, Marker):
    """Likewise, of a marker that lies in its own folder."""


class Stage(_Other):
    """`backbones.trunk.StageRecord`."""

    arch: str
    stage: str
    previous: Digest
    weights: ObjectRef


class WeightsFile(_Other):
    """`backbones.weights.WeightsRecord`."""

    source: str
    file: ObjectRef


class Checkpoint(_OtherMarker):
    """`training.checkpoint.Checkpoint`."""

    FORMAT: ClassVar[int] = 2

    run: Id
    attempt: int
    epoch: int
    step: int
    trunk_digest: Digest
    best: str | None = Field(default=None, pattern=r"^runs/[^/]+/attempt-\d+/checkpoints/\d+$")
    confusion: ObjectRef | None = None
    tensors: ObjectRef

    @property
    def folder(self) -> str:
        """See `Marker`."""
        return f"runs/{self.run}/attempt-{self.attempt}/checkpoints/{self.step:08d}"


class TrialCheckpoint(_OtherMarker):
    """`sweep.trial_checkpoint.TrialCheckpoint`."""

    sweep: Id
    number: int
    step: int
    state: ObjectRef

    @property
    def folder(self) -> str:
        """See `Marker`."""
        return f"sweeps/{self.sweep}/under-way/{self.number}/{self.step:08d}"


class Decision(_OtherMarker):
    """`decisions.records.Decision`."""

    model: Ref
    number: int
    files: dict[FileName, ObjectRef]

    @property
    def folder(self) -> str:
        """See `Marker`."""
        name, _, version = self.model.partition("@")
        return f"models/{name}/versions/{version}/decisions"


class Graph(_OtherMarker):
    """`serving.engines.kept_graph.KeptGraph`."""

    trunk_digest: Digest
    tail: Digest | None
    graph: ObjectRef

    @property
    def folder(self) -> str:
        """See `Marker`."""
        return f"exports/{self.trunk_digest}/{self.tail or 'trunk'}"


class Choice(_Other):
    """`serving.engines.choice.EngineChoice`."""

    engine: Literal["torch", "onnx"]


class Try(_Other):
    """`report.decision.tries.Try`."""

    model: Ref
    dataset: Ref


class Sent(_Other):
    """`cluster.sent_jobs.SentJob`."""

    job: Id
    who: str


class Cell(_OtherMarker):
    """`report.transfer.cell_result.CellFigures`."""

    report: Id
    hits: ObjectRef

    @property
    def folder(self) -> str:
        """See `Marker`."""
        return f"reports/{self.report}/cells"


def payloads(value: Any, folder: str) -> Iterator[Reference]:
    """Yield every payload that a document, or a part of it, lists, as one of `folder`."""
    if isinstance(value, ObjectRef):
        yield Reference(f"{folder}/{value.name}", value.size, value.sha256)
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from payloads(getattr(value, name), folder)
    elif isinstance(value, dict | tuple | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from payloads(part, folder)


def _of_manifest(manifest: Manifest, folder: str) -> Iterator[Reference]:
    yield from payloads((manifest.index, manifest.originals), folder)
    for shard in manifest.all_shards:
        yield from payloads(shard.ref, shard.folder)


def _of_version(version: ModelVersion, folder: str) -> Iterator[Reference]:
    yield from payloads((version.tail, version.golden), folder)
    for digest in version.stages:
        yield Reference(f"stages/{digest}/stage.json")


def _of_alias(alias: Alias, folder: str) -> Iterator[Reference]:
    yield Reference(f"{folder.rpartition('/')[0]}/versions/{alias.version}/model.json")


def _of_decision(decision: Decision, folder: str) -> Iterator[Reference]:
    yield from payloads(decision.files, folder)
    yield Reference(f"{folder.rpartition('/')[0]}/model.json")


def _of_index(index: Index, folder: str) -> Iterator[Reference]:
    yield from payloads(index, folder.rpartition("/")[0])


def _of_checkpoint(checkpoint: Checkpoint, folder: str) -> Iterator[Reference]:
    yield from payloads((checkpoint.tensors, checkpoint.confusion), folder)
    if checkpoint.best:
        yield Reference(f"{checkpoint.best}/checkpoint.json")


def _of_pointer(pointer: AttemptPointer, folder: str) -> Iterator[Reference]:
    yield Reference(f"{folder}/attempt-{pointer.attempt}/attempt.json")


def _of_sweep(result: SweepResult, folder: str) -> Iterator[Reference]:
    best = {result.best.number} if result.best else set()
    for trial in result.trials:
        # A transfer report removes the tails of its sweeps once it has tested them.
        if trial.number in best and trial.checkpoint and not folder.endswith(("-rates", "-seeds")):
            is_tail = trial.checkpoint.startswith("sweeps/")
            yield Reference(trial.checkpoint + ("" if is_tail else "/checkpoint.json"))


def _of_import_part(part: imports.Part, folder: str) -> Iterator[Reference]:
    yield from payloads(part, f"{folder}/{imports.STAGED}")


def _of_answers(part: predictions.Part, folder: str) -> Iterator[Reference]:
    yield from payloads(part.answers, f"{folder}/{predictions.ANSWERS}")
    yield from payloads(part.broken, f"{folder}/{predictions.BROKEN_PARTS}")


def _of_prediction(finished: predictions.Finished, folder: str) -> Iterator[Reference]:
    if finished.out == predictions.BESIDE:  # else they lie in no store of ours
        yield from payloads(finished.parts, f"{folder}/{predictions.ANSWERS}")
        yield from payloads(finished.broken, f"{folder}/{predictions.BROKEN_FILES}")
        yield from payloads(finished.compared, f"{folder}/{predictions.CHANGES}")


def _nothing(document: BaseModel, folder: str) -> Iterator[Reference]:
    yield from ()


@dataclass(frozen=True)
class Kind:
    """A kind of document."""

    name: str
    """For people."""
    pattern: re.Pattern[str]
    model: type[BaseModel]
    refer: Callable[[Any, str], Iterator[Reference]] = payloads
    """Takes the document and its folder; yields what it cannot do without."""

    @property
    def refers(self) -> bool:
        """Whether a document of this kind refers to anything."""
        return self.refer is not _nothing


def _kind(
    name: str,
    pattern: str,
    model: type[BaseModel],
    refer: Callable[[Any, str], Iterator[Reference]] = payloads,
) -> Kind:
    return Kind(name, re.compile(pattern.replace("@", "[^/]+")), model, refer)


KINDS = (
    _kind("dataset version", r"datasets/@/@/manifest\.json", Manifest, _of_manifest),
    _kind("model version", r"models/@/versions/[1-9]\d*/model\.json", ModelVersion, _of_version),
    _kind("decision", r"models/@/versions/@/decisions/[1-9]\d*\.json", Decision, _of_decision),
    _kind("verdict", r"models/@/versions/@/verdicts/(corrected/)?@\.json", Verdict, _nothing),
    _kind("engine", r"(models/@/versions/@|exports/@/trunk)/engines/@\.json", Choice, _nothing),
    _kind("alias", r"models/@/aliases/@\.json", Alias, _of_alias),
    _kind("try", r"models/@/tried/@/@\.json", Try, _nothing),
    _kind("stage", r"stages/@/stage\.json", Stage),
    _kind("weights", r"weights/@/weights\.json", WeightsFile),
    _kind("graph", r"exports/@/@/@\.json", Graph),
    _kind("activations", r"activations/@/@/(index|parts)/@\.json", Index, _of_index),
    _kind(
        "checkpoint",
        r"runs/@/attempt-\d+/checkpoints/\d+/checkpoint\.json",
        Checkpoint,
        _of_checkpoint,
    ),
    _kind(
        "checkpoint inside an epoch",
        r"runs/@/attempt-\d+/steps/\d+/checkpoint\.json",
        StepCheckpoint,
    ),
    _kind("stall", r"runs/@/attempt-\d+/stalls/\d+\.json", Stall, _nothing),
    _kind("run", r"runs/@/result\.json", Result),
    _kind("amendments", r"runs/@/amendments\.json", Amendments, _nothing),
    _kind("metrics", r"runs/@/attempt-\d+/metrics/\d+\.json", Epoch, _nothing),
    _kind("job", r"jobs/@/job\.json", JobRecord, _nothing),
    _kind("job", r"jobs/@/sent\.json", Sent, _nothing),
    _kind("plan", r"sweeps/@/plan\.json", SweepPlan, _nothing),
    _kind("trial", r"sweeps/@/trials/\d+\.json", TrialRecord, _nothing),
    _kind("checkpoint of a trial", r"sweeps/@/under-way/\d+/\d+/checkpoint\.json", TrialCheckpoint),
    _kind("sweep", r"sweeps/@/result\.json", SweepResult, _of_sweep),
    _kind(
        "attempt",
        r"(runs|sweeps|reports|imports|predictions)/@/attempt-\d+/attempt\.json",
        AttemptPointer,
        _nothing,
    ),
    _kind(
        "pointer",
        r"(runs|sweeps|reports|imports|predictions)/@/head\.json",
        AttemptPointer,
        _of_pointer,
    ),
    _kind("report", r"reports/@/report\.json", Report),
    _kind("cell", r"reports/@/cells/@\.json", Cell),
    _kind("use", r"uses/@/@/@/@\.json", Use, _nothing),
    _kind("import", r"imports/@/begun\.json", imports.Begun),
    _kind("part", r"imports/@/part-\d+\.json", imports.Part, _of_import_part),
    _kind("shard", r"imports/@/shard-\d+\.json", imports.PackedShard, _nothing),
    _kind("import", r"imports/@/import\.json", imports.Finished, _nothing),
    _kind("prediction", r"predictions/@/begun\.json", predictions.Begun),
    _kind("part", r"predictions/@/part-\d+\.json", predictions.Part, _of_answers),
    _kind("prediction", r"predictions/@/prediction\.json", predictions.Finished, _of_prediction),
)
"""Of a key that several match, the first one counts."""


def kind_of(key: str) -> Kind | None:
    """Return what kind of document a key is of; None: of none that refers to anything."""
    return next((kind for kind in KINDS if kind.pattern.fullmatch(key)), None)
