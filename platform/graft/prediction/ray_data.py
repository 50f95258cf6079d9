"""Parts of a prediction on Ray Data: the actors that answer, write and commit them."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow.parquet as pq

from graft.backbones.process_setup import set_up_process
from graft.cpus import fitting_threads
from graft.data.file_reader import FileReader
from graft.data.manifest import DatasetVersion
from graft.decisions.records import read_decision
from graft.parts.ray_data import Block, TryCount, Work, do_parts, row_of
from graft.prediction.embedding import HeadInput
from graft.prediction.inputs import Input, dataset_of, read_part
from graft.prediction.kept_trunks import KeptTrunk
from graft.prediction.part import (
    BATCH,
    BATCH_ON_GPU,
    NOTHING_KEPT,
    Kept,
    Read,
    Shape,
    Worker,
    read_bytes,
)
from graft.prediction.records import (
    Begun,
    open_out,
    part_key,
    read_parts,
    record_part,
)
from graft.prediction.run_prediction import Predict
from graft.registry import get_model
from graft.serving.engines.choice import Place, choose_engine
from graft.serving.engines.engine import TorchEngine
from graft.serving.predictor import Predictor
from graft.spec import Prediction
from graft.spec.prediction import DATASET_SCHEME
from graft.store import Store

DEPLOYMENT = "predict-batch"
"""Where the engine is recorded that `auto` has chosen for predictions."""


@dataclass(frozen=True)
class Task:
    """What every actor works with."""

    store: str
    """The store's URI."""
    spec: Prediction
    begun: Begun


class Actor:
    """One process that answers for parts, one after another."""

    def __init__(self, task: Task, tries: TryCount):
        """Load nothing yet: Ray Data says of what fails here only that the process died."""
        self._task, self._tries = task, tries
        self._store = Store.open(task.store)
        self._out = open_out(self._store, task.spec, task.begun.prediction)

    def __call__(self, block: Block) -> Block:
        """Answer for a block of one part, and commit it."""
        (number,) = block["part"].tolist()
        if self._out.exists(part_key(number)):  # by one that died before it could say so
            (part,) = read_parts(self._out, [number])
        else:
            self._check_tries(number)
            part = self._worker.predict(number, read_part(self._inputs, number), self._out)
            record_part(self._out, part)
        return row_of(number, images=part.images, unusable=part.unusable)

    def _check_tries(self, number: int) -> None:
        begun, size = self._task.begun, self._task.spec.part_images
        last = min((number + 1) * size, begun.images)
        self._tries.begin(number, f"files {number * size + 1:,} to {last:,}")

    @cached_property
    def _inputs(self) -> pq.ParquetFile:
        begun = self._task.begun
        file = self._store.open_file(begun.folder, begun.inputs)
        return pq.ParquetFile(file or io.BytesIO(self._store.get(begun.folder, begun.inputs)))

    @cached_property
    def _worker(self) -> Worker:
        """Load the version, with the engine that answers for it in all actors."""
        spec, begun, store = self._task.spec, self._task.begun, self._store
        scaling = spec.scaling
        device = set_up_process(scaling.cpus_per_worker, scaling.gpus_per_worker)
        threads = fitting_threads(scaling.cpus_per_worker)
        place = Place("torch" if spec.embedding else spec.engine, DEPLOYMENT, threads, device)
        version = get_model(store, begun.model)
        engine = choose_engine(store, version, place).engine
        number = begun.decision
        decision = None if number is None else read_decision(store, version, number)
        kept: Kept
        read, kept = read_bytes(FileReader().read), NOTHING_KEPT
        if spec.source.startswith(DATASET_SCHEME):
            dataset = dataset_of(store, spec.source)
            read = _reader(dataset)
            if spec.engine != "onnx":  # what is kept was computed by torch
                kept = KeptTrunk.find(store, dataset, version, device, spec.embedding)
        return Worker(
            predictor=Predictor(version, engine, decision=decision),
            read=read,
            decode_threads=threads + 1,
            batch=BATCH_ON_GPU if place.on_gpu else BATCH,
            shape=Shape(spec.top_k, spec.logits, spec.embedding, spec.format),
            kept=kept,
            head_input=HeadInput(engine.model)
            if spec.embedding and isinstance(engine, TorchEngine)
            else None,
        )


def _reader(dataset: DatasetVersion) -> Read:
    """Return what reads the images of a dataset, each named by the SHA-256 of its source file."""
    images = {
        image.sha256: image for split in dataset.manifest.counts for image in dataset.images(split)
    }

    def read(file: Input) -> tuple[str, bytes]:
        image = images[str(file.location)]
        return image.sha256, dataset.read(image)

    return read


def predict_on_ray(store: Store, actor: type[Actor] = Actor) -> Predict:
    """Return what answers for the parts of a prediction on the connected Ray, by such actors."""
    return lambda spec, begun, numbers: predict_parts(Task(store.uri, spec, begun), numbers, actor)


def predict_parts(
    task: Task, numbers: Sequence[int], actor: type[Actor] = Actor
) -> Iterator[tuple[int, int, int]]:
    """Answer for parts on the connected Ray; yield number, images and unusable files of each.

    Errors as those of `do_parts`.
    """
    work = Work("predict", f"graft predict-batch --resume {task.begun.prediction}")
    for done in do_parts(actor, task, numbers, task.spec.scaling, work):
        yield done["part"], done["images"], done["unusable"]
