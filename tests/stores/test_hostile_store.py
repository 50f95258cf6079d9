"""Whatever a store's markers say, nothing outside the folders that they belong in is touched.

Who may write to a store may write anything into it. Here every text of the documents of a store,
keys included, becomes a name that leads elsewhere, every number one that nobody counts to, and any
document any bytes. What is read then is an answer or an error of ours.
"""

import contextlib
import copy
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from colours import draw_colours
from graft.activations.index import open_index
from graft.activations.lease import LeaseTerms, hold_lease
from graft.activations.list_and_remove import list_activations
from graft.backbones.trunk import load_stages
from graft.cluster.job_records import read_job, read_job_spec
from graft.data.importing import import_dataset
from graft.data.manifest import list_datasets, open_dataset
from graft.decisions.records import list_decisions, read_decision
from graft.errors import InputError
from graft.import_job.part import PartScanner, Plan, ShardPacker
from graft.import_job.records import Begun, record
from graft.import_job.records import read_pace as read_import_pace
from graft.import_job.run_import import create_import, run_import
from graft.prediction.compare import check_answers, decisions
from graft.prediction.records import (
    Part,
    list_predictions,
    open_out,
    parts_done,
    read_pace,
)
from graft.prediction.records import read_spec as read_prediction_spec
from graft.registry import (
    Verdict,
    alias_history,
    aliases,
    get_model,
    list_models,
    record_verdict,
    verdicts,
)
from graft.report.decision.tries import record_try
from graft.report.publishing import list_reports, read_report, read_transfer, write_out
from graft.report.transfer import cell_result
from graft.report.transfer.cell_result import CellFigures
from graft.report.transfer.record_verdicts import record_from_reports
from graft.report.uses import Use
from graft.serving.engines.choice import Place as Where
from graft.serving.engines.choice import engines_folder, recorded_engine
from graft.serving.engines.kept_graph import KeptGraph
from graft.spec import Import
from graft.store import ObjectRef, Store, read_document
from graft.store.backend import LARGEST_DOCUMENT, Versioned
from graft.store.directory import Directory
from graft.sweep.sweep_list import list_sweep_rows
from graft.sweep.sweep_records import (
    read_plan,
    read_sweep,
    read_sweep_result,
    read_trials,
)
from graft.training.amendments import Amendment, record_amendment
from graft.training.attempt_pointer import read_pointer
from graft.training.checkpoint import find_position, latest_checkpoint, load_state
from graft.training.run_activations import CacheRecord
from graft.training.run_records import (
    latest_epoch,
    list_run_rows,
    read_result,
    read_spec,
    run_folder,
    with_classes,
)
from graft.training.run_shuffle import ShuffleRecord
from graft.training.stalls import read_stalls, record_stall

ARCHIVE = Path(__file__).parent / "cad3a37.tar.xz"
DOCUMENTS = re.compile(r".*\.json|.*/spec\.yaml|datasets/[^/]+/latest")
CLAIMS = re.compile(r".*/attempt-\d+/attempt\.json")
"""Of what these say nothing is read: that they exist is all."""
IN_BATCHES = Where("auto", "predict-batch")
NUMBERS = (-1, 0, 10**18, 0.5, float("nan"), None, "1", [])


class Place:
    """A store, and beside it files that no store may name."""

    def __init__(self, folder: Path, store: Store):
        self.folder, self.store = folder, store
        self.out = folder / "out"
        self.out.mkdir(exist_ok=True)
        outside = folder / "outside"
        outside.mkdir()
        (outside / "file").write_bytes(b"theirs")
        self.original = {
            key: store.read(key).data
            for key, _ in store.scan("")
            if DOCUMENTS.fullmatch(key) and not CLAIMS.fullmatch(key)
        }

    def open_copy(self, folder: Path) -> Store:
        """Open a store that is a copy of a part of this one."""
        return Store.open(str(folder))

    def snapshot(self) -> dict[str, bytes]:
        """Return the files outside the store, the cache and the folder that a person named."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
            and path.relative_to(self.folder).parts[0] not in ("store", "cache", "out")
        }

    def names(self) -> list[str]:
        """Return names that lead outside, or nowhere."""
        deep = "../" * 12
        return [
            f"{self.folder}/outside/file",
            *(f"{'../' * up}outside/{name}" for up in range(1, 7) for name in ("file", "new")),
            f"{deep}{self.folder}/outside/file",
            f"x/{deep}{self.folder}/outside/new",
            *("..", ".", "", "/", "a//b", "a\\b", "a\0b", "~", "a/", "x" * 300, "ü/" * 200),
        ]


def leaves(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every text and number of a JSON document, and to every key of a mapping."""
    if isinstance(document, str | int | float):
        yield path
    elif isinstance(document, dict):
        for key, value in document.items():
            yield (*path, (key,))
            yield from leaves(value, (*path, key))
    elif isinstance(document, list):
        for number, value in enumerate(document[:3]):
            yield from leaves(value, (*path, number))


def value_at(document: Any, path: tuple[Any, ...]) -> Any:
    """Return what a path of `leaves` leads to; of a key, the key."""
    for step in path:
        document = step[0] if isinstance(step, tuple) else document[step]
    return document


def with_value(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return the document with another value, or another key, at `path`."""
    if not path:
        return value
    changed = copy.copy(document)
    if isinstance(path[0], tuple):
        changed[value] = changed.pop(path[0][0])
    else:
        changed[path[0]] = with_value(document[path[0]], path[1:], value)
    return changed


def read_file(place: Place, folder: str, ref: ObjectRef) -> None:
    if file := place.store.open_file(folder, ref):
        file.close()


def read_datasets(place: Place) -> None:
    list_datasets(place.store)
    dataset = open_dataset(place.store, "colours")
    for split in ("train", "val"):
        for image in dataset.images(split)[:2]:
            dataset.read(image)
    dataset.originals()


def read_activations(place: Place) -> None:
    list_activations(place.store)
    for key, _ in place.store.scan("activations/"):
        if "/index/" in key:
            for part in open_index(place.store, key).parts:
                read_file(place, key.rpartition("/index/")[0], part.shard)


def read_reports(place: Place) -> None:
    record_from_reports(place.store, get_model(place.store, "colours@1"))
    for name in (row.report for row in list_reports(place.store)):
        report = read_report(place.store, name)
        write_out(place.store, report, place.out)
        if report.kind == "transfer":
            read_transfer(place.store, name)
            read_attempts(place, f"reports/{name}")
            for cell in cell_result.tested_cells(place.store, name):
                key = f"reports/{name}/cells/{cell}.json"
                figures = read_document(place.store, key, CellFigures)
                place.store.get(figures.folder, figures.hits)


def read_attempts(place: Place, folder: str) -> None:
    read_pointer(place.store, folder)
    if place.store.exists(key := f"{folder}/lease.json"):
        with hold_lease(place.store, key, LeaseTerms(expiry_s=0)):
            pass


def read_models(place: Place) -> None:
    aliases(place.store, "colours")
    for row in list_models(place.store).get("colours", []):
        version = get_model(place.store, f"colours@{row.version}")
        verdicts(place.store, version)
        read_file(place, version.folder, version.golden)
        load_stages(place.store, version.stages)
        recorded_engine(place.store, engines_folder(version), IN_BATCHES)
        for number in list_decisions(place.store, version):
            decision = read_decision(place.store, version, number)
            for ref in decision.files.values():
                read_file(place, decision.folder, ref)
        record_try(place.store, version, open_dataset(place.store, "colours"), "all")
    get_model(place.store, "colours")
    alias_history(place.store, "colours")


def read_exports(place: Place) -> None:
    for key, _ in place.store.scan("exports/"):
        if key.endswith(".json"):
            kept = read_document(place.store, key, KeptGraph)
            read_file(place, kept.folder, kept.graph)


def read_predictions(place: Place) -> None:
    for begun, finished in list_predictions(place.store):
        spec = read_prediction_spec(place.store, begun.prediction)
        read_file(place, begun.folder, begun.inputs)
        read_pace(place.store, begun.prediction)
        read_attempts(place, f"predictions/{begun.prediction}")
        parts_done(open_out(place.store, spec, begun.prediction))
        for key, _ in place.store.scan(f"{begun.folder}/part-"):
            read_document(place.store, key, Part)
        if finished:
            check_answers(finished)
            decisions(Store.open(finished.out), finished.parts)


class Here:
    """Scans and packs in this process."""

    def __init__(self, store: Store, is_stopped: bool):
        """`is_stopped`: once the shards are packed."""
        self._store, self._is_stopped = store, is_stopped

    def scan(self, begun: Begun, spec: Import, numbers: Sequence[int]) -> Iterator[int]:
        scanner = PartScanner(self._store, begun, cpus=1)
        for number in numbers:
            part = scanner.scan(number)
            record(self._store, begun, part)
            yield part.files

    def pack(self, begun: Begun, spec: Import, plan: Plan, numbers: Sequence[int]) -> Iterator[int]:
        packer = ShardPacker(self._store, begun, plan)
        for number in numbers:
            shard = packer.pack(number)
            record(self._store, begun, shard)
            yield shard.images
        if self._is_stopped:
            raise KeyboardInterrupt


def run_here(store: Store, name: str, is_stopped: bool = False) -> None:
    run_import(store, name, Here(store, is_stopped), lambda pace: None)


def read_imports(place: Place) -> None:
    """Go on with a copy: what ends leaves nothing to attack."""
    for name in place.store.children("imports/"):
        read_import_pace(place.store, name)
        read_attempts(place, f"imports/{name}")
        with tempfile.TemporaryDirectory(dir=place.out) as folder:
            for kind in ("imports", "datasets"):
                shutil.copytree(place.folder / "store" / kind, f"{folder}/{kind}")
            run_here(place.open_copy(Path(folder)), name)


def read_runs(place: Place) -> None:
    list_run_rows(place.store)
    for run in place.store.children("runs/"):
        read_spec(place.store, run)
        read_pointer(place.store, run_folder(run))
        latest_epoch(place.store, run)
        read_document(place.store, f"runs/{run}/cache.json", CacheRecord)
        read_document(place.store, f"runs/{run}/shuffle.json", ShuffleRecord)
        if checkpoint := latest_checkpoint(place.store, run):
            load_state(place.store, checkpoint)
        finished = checkpoint.epoch if checkpoint else 0
        find_position(place.store, run, finished, lambda text: None)
        read_stalls(place.store, run)
        if (result := read_result(place.store, run)) and result.confusion_png:
            place.store.get(f"runs/{run}", result.confusion_png)
            with_classes(place.store, result)


def read_sweeps(place: Place) -> None:
    list_sweep_rows(place.store)
    for sweep in place.store.children("sweeps/"):
        read_attempts(place, f"sweeps/{sweep}")
        read_sweep(place.store, sweep)
        read_plan(place.store, sweep)
        read_sweep_result(place.store, sweep)
        for trial in read_trials(place.store, sweep):
            if trial.checkpoint:
                place.store.size(trial.checkpoint)


def read_uses(place: Place) -> None:
    for key, _ in place.store.scan("uses/"):
        read_document(place.store, key, Use)


def read_jobs(place: Place) -> None:
    read_job_spec(place.store, "colours-job")
    read_job(place.store, "colours-job")


READERS: dict[str, Callable[[Place], None]] = {
    "datasets": read_datasets,
    "activations": read_activations,
    "reports": read_reports,
    "models": read_models,
    "stages": read_models,
    "exports": read_exports,
    "predictions": read_predictions,
    "uses": read_uses,
    "runs": read_runs,
    "sweeps": read_sweeps,
    "jobs": read_jobs,
    "imports": read_imports,
}


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder / "store", filter="data")
    store = Store.open(str(folder / "store"))
    more = draw_colours(folder / "more", train=1, val=1, seed=9)
    import_dataset(store, str(more), "colours", add_to="latest")
    spec = {"kind": "import", "name": "colours", "source": str(more), "part_files": 4}
    create_import(store, Import.model_validate(spec), "colours-import")
    with contextlib.suppress(KeyboardInterrupt):
        run_here(store, "colours-import", is_stopped=True)
    version = get_model(store, "colours@1")
    record_verdict(store, version, Verdict(against="scratch", outcome="better", why="", report="r"))
    run, *_ = (run for run in store.children("runs/") if read_result(store, run))
    record_stall(store, run, 1, 0, 9.0)
    amendment = Amendment(when="2026", who="ann", changes={"train.epochs": "3"})
    record_amendment(store, run, amendment)
    lease = json.dumps({"owner": "dead", "host": "elsewhere", "process": 1, "since": "2026"})
    sweep, *_ = store.children("sweeps/")
    store.write(f"sweeps/{sweep}/lease.json", lease.encode())
    for index in (list_models, list_reports, list_run_rows, list_sweep_rows):
        index(store)
    return folder


@pytest.fixture(scope="module")
def directory(extracted: Path) -> Place:
    return Place(extracted, Store.open(str(extracted / "store")))


@pytest.fixture(scope="module")
def bucketed(
    directory: Place, bucket: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """Return a place whose store is on S3, and whose node-local cache is its own."""
    folder, remote = tmp_path_factory.mktemp("bucketed"), Store.open(f"s3://{bucket}/hostile")
    for kind in ("datasets", "activations", "reports"):
        for key, _ in directory.store.scan(f"{kind}/"):
            remote.write(key, directory.store.read(key).data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_CACHE", str(folder / "cache"))
        yield Place(folder, remote)


def attack(place: Place, data: st.DataObject) -> None:
    """Change one document, have everything read that its kind of thing has, and look around."""
    key = data.draw(st.sampled_from(sorted(place.original)))
    original = place.original[key]
    hostile = st.sampled_from(place.names()) | st.text(max_size=9)
    if key.endswith(".json"):
        document = json.loads(original)
        paths = list(leaves(document))
        # A marker's references first of all: of what else it says there is far more.
        refs = [path for path in paths if path[-1] in ("name", "sha256", "version")] or paths
        path = data.draw(st.sampled_from(refs) | st.sampled_from(paths))
        if not isinstance(value_at(document, path), str):
            hostile = st.sampled_from(NUMBERS)
        changed = json.dumps(with_value(document, path, data.draw(hostile))).encode()
    else:
        changed = data.draw(hostile).encode("utf-8", "surrogatepass")
    if data.draw(st.integers(0, 9)) == 0:
        changed = data.draw(st.binary(max_size=20))
    before = place.snapshot()
    place.store.write(key, changed)
    with contextlib.suppress(InputError):
        READERS[key.partition("/")[0]](place)
    place.store.write(key, original)
    assert place.snapshot() == before


class Watched(Directory):
    """A directory that remembers what was read."""

    def __init__(self, root: Path, seen: set[str]):
        super().__init__(root)
        self.seen = seen

    def read(self, key: str, limit: int = LARGEST_DOCUMENT) -> Versioned:
        self.seen.add(key)
        return super().read(key, limit)


def test_every_kind_of_document_is_read(directory: Place) -> None:
    seen = set[str]()
    place = copy.copy(directory)
    place.store = Store(Watched(directory.folder / "store", seen))
    place.open_copy = lambda folder: Store(Watched(folder, seen))  # type: ignore[method-assign]
    for read in READERS.values():
        read(place)
    kinds, read_kinds = (
        {re.sub(r"\d+", "", key) for key in keys} for keys in (directory.original, seen)
    )
    assert kinds <= read_kinds  # of an attempt's metrics the last ones are read
    for key in set(directory.original) - {key for key, _ in directory.store.scan("")}:
        directory.store.write(key, directory.original[key])


CALM = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.slow
@CALM
@given(data=st.data())
def test_a_directory_store_names_nothing_outside(directory: Place, data: st.DataObject) -> None:
    attack(directory, data)


@pytest.mark.slow  # six CPU seconds
@settings(CALM, max_examples=12)
@given(data=st.data())
def test_a_bucket_names_nothing_outside_the_cache(bucketed: Place, data: st.DataObject) -> None:
    attack(bucketed, data)


@pytest.mark.nightly
@settings(CALM, max_examples=1000)
@given(data=st.data())
def test_names_without_end(directory: Place, data: st.DataObject) -> None:
    attack(directory, data)
