"""A store with a model, and an archive of files that are images, most of them."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from graft.data.file_reader import FileReader
from graft.decisions.records import read_decision
from graft.prediction.embedding import HeadInput
from graft.prediction.inputs import read_part
from graft.prediction.part import Shape, Worker, read_bytes
from graft.prediction.records import Begun, open_out, record_part
from graft.registry import get_model
from graft.serving.engines.choice import Candidates
from graft.serving.predictor import Predictor
from graft.spec import Prediction
from graft.store import Store
from models import encoded, picture, register_model

IMAGES = 10


@pytest.fixture(scope="session")
def with_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with `ants-bees@1`: to be copied."""
    folder = tmp_path_factory.mktemp("prediction") / "store"
    register_model(Store.open(str(folder)))
    return folder


@pytest.fixture
def store(with_model: Path, tmp_path: Path) -> Store:
    return Store.open(str(shutil.copytree(with_model, tmp_path / "store")))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Ten images in two folders, and two files that are none."""
    for number in range(IMAGES):
        path = tmp_path / "archive" / f"{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number)))
    (tmp_path / "archive" / "0" / "cut.jpg").write_bytes(encoded(picture(1))[:700])
    (tmp_path / "archive" / "readme.txt").write_text("hello")
    return tmp_path / "archive"


@dataclass
class Here:
    """Answers for parts in this process, and may stop before one of them is committed."""

    store: Store
    dies_at: int | None = None
    predicted: int = 0
    """Parts that were answered for."""

    def __call__(
        self, spec: Prediction, begun: Begun, numbers: Sequence[int]
    ) -> Iterator[tuple[int, int, int]]:
        import io

        import pyarrow.parquet as pq

        version = get_model(self.store, begun.model)
        engine = Candidates(self.store, version).torch
        number = begun.decision
        decision = None if number is None else read_decision(self.store, version, number)
        worker = Worker(
            predictor=Predictor(version, engine, decision=decision),
            read=read_bytes(FileReader().read),
            decode_threads=2,
            batch=4,
            shape=Shape(spec.top_k, spec.logits, spec.embedding, spec.format),
            head_input=HeadInput(engine.model) if spec.embedding else None,
        )
        out = open_out(self.store, spec, begun.prediction)
        inputs = pq.ParquetFile(io.BytesIO(self.store.get(begun.folder, begun.inputs)))
        for number in numbers:
            self.predicted += 1
            part = worker.predict(number, read_part(inputs, number), out)
            if number == self.dies_at:
                raise KeyboardInterrupt
            record_part(out, part)
            yield number, part.images, part.unusable
