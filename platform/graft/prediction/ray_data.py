"""Parts of a prediction on Ray Data: actors that answer, as many as the cluster has room for.

Each block is the number of a part, which an actor reads, answers for, writes and commits: nothing
but numbers and counts goes through the object store, whatever the images are. Ray Data starts
actors while there are CPUs or GPUs for them, and gives a part that an actor died of to another one.
"""

import io
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import ray.data
import ray.exceptions
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from graft.backbones.process_setup import set_up_process
from graft.cpus import fitting_threads
from graft.data.file_reader import FileReader
from graft.data.manifest import DatasetVersion
from graft.decisions.records import read_decision
from graft.errors import GraftError, ResourceError, RunFailed
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
TRIES = 4
"""Processes that may die of one part."""
IN_FLIGHT = 2
"""Parts that wait in an actor, or are computed in it."""


@dataclass(frozen=True)
class Task:
    """What every actor works with."""

    store: str
    """The store's URI."""
    spec: Prediction
    begun: Begun


class Tries:
    """Counts how often each part was begun: Ray Data begins one again without end."""

    def __init__(self) -> None:
        self._tries: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        """Return which try at a part this is, from 1."""
        self._tries[number] += 1
        return self._tries[number]


class Actor:
    """One process that answers for parts, one after another."""

    def __init__(self, task: Task, tries: ActorHandle[Tries]):
        """Load nothing yet: Ray Data says of what fails here only that the process died."""
        self._task, self._tries = task, tries
        self._store = Store.open(task.store)
        self._out = open_out(self._store, task.spec, task.begun.prediction)

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Answer for a block of one part, and commit it."""
        (number,) = block["part"].tolist()
        if self._out.exists(part_key(number)):  # by one that died before it could say so
            (part,) = read_parts(self._out, [number])
        else:
            self._check_tries(number)
            part = self._worker.predict(number, read_part(self._inputs, number), self._out)
            record_part(self._out, part)
        return {
            "part": np.array([number]),
            "images": np.array([part.images]),
            "unusable": np.array([part.unusable]),
        }

    def _check_tries(self, number: int) -> None:
        if ray.get(self._tries.begin.remote(number)) <= TRIES:
            return
        begun, size = self._task.begun, self._task.spec.part_images
        raise RunFailed(
            f"{TRIES} processes died of part {number} (files {number * size + 1:,} to "
            f"{min((number + 1) * size, begun.images):,}), perhaps for want of memory, or of an "
            "image in it; what is done stays. Then: "
            f"graft predict-batch --resume {begun.prediction}"
        )

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

    Raises:
        ResourceError: the cluster has less than one actor takes.
        GraftError: what an actor raised.
        RunFailed: actors died again and again.
    """
    scaling = task.spec.scaling
    room = _room(task)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # progress is told here
    blocks = ray.data.from_items([{"part": n} for n in numbers], override_num_blocks=len(numbers))
    answered = blocks.map_batches(
        actor,
        batch_size=1,
        fn_constructor_args=(task, _open_tries()),
        num_cpus=scaling.cpus_per_worker,
        num_gpus=scaling.gpus_per_worker or None,
        compute=ray.data.ActorPoolStrategy(
            min_size=1,
            max_size=min(scaling.workers, room, len(numbers)),
            max_tasks_in_flight_per_actor=IN_FLIGHT,
        ),
    )
    try:
        for row in answered.iter_rows():
            yield int(row["part"]), int(row["images"]), int(row["unusable"])
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, GraftError):
            raise cause from None
        raise
    except ray.exceptions.RayError as error:
        first = str(error).strip().partition("\n")[0]
        raise RunFailed(
            f"processes that predict died: {first}. What is done stays: "
            f"graft predict-batch --resume {task.begun.prediction}"
        ) from error


def _open_tries() -> ActorHandle[Tries]:
    """Return a count on the driver's node, which no lost worker takes along."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    tries: ActorHandle[Tries] = ray.remote(num_cpus=0, scheduling_strategy=here)(Tries).remote()
    return tries


def _room(task: Task) -> int:
    """Return how many actors the cluster has room for."""
    scaling, resources = task.spec.scaling, ray.cluster_resources()
    cpus = int(resources.get("CPU", 0)) // scaling.cpus_per_worker
    gpus = cpus
    if scaling.gpus_per_worker:
        gpus = int(resources.get("GPU", 0)) // scaling.gpus_per_worker
    if not min(cpus, gpus):
        raise ResourceError(
            f"a process that predicts takes {scaling.cpus_per_worker} CPUs and "
            f"{scaling.gpus_per_worker} GPUs; the cluster has {resources.get('CPU', 0):g} and "
            f"{resources.get('GPU', 0):g}"
        )
    return min(cpus, gpus)
