"""A part of a prediction: its files are read, decoded and answered for. Plain, without Ray."""

import io
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from graft.decisions.rules import Answers
from graft.errors import ImageError
from graft.prediction.embedding import Computed, HeadInput
from graft.prediction.inputs import Input
from graft.prediction.records import ANSWERS, BROKEN_PARTS, Part
from graft.serving.predictor import Predictor
from graft.store import ObjectRef, Store, sha256

BROKEN = pa.schema([("path", pa.string()), ("reason", pa.string())])
"""Of the files that are no image that can be used."""
BATCH, BATCH_ON_GPU = 8, 128
"""Images in a forward: more overflow a CPU's caches, and as many fill a GPU."""
BATCH_OF_KEPT = 256
"""Images of which activations are read, and the tail computed, at once."""
AHEAD = 4
"""Batches that are read and decoded while one is computed."""

Format = Literal["parquet", "jsonl"]
Read = Callable[[Input], tuple[str, bytes]]
"""Returns the SHA-256 of an input's source file, and what is decoded; ImageError: it cannot be."""


@dataclass(frozen=True)
class Shape:
    """What the answers have."""

    top_k: int
    logits: bool
    embedding: bool
    format: Format


class Kept(Protocol):
    """Images whose trunk was computed before, and what computes the rest."""

    def __contains__(self, digest: object) -> bool:
        """Whether an image's activations are kept, by the SHA-256 of its file."""

    def compute(self, digests: Sequence[str]) -> Computed:
        """Return what the rest of the model gives for such images."""


class NothingKept:
    """What there is for files that have to be read: none is kept."""

    def __contains__(self, digest: object) -> bool:
        return False

    def compute(self, digests: Sequence[str]) -> Computed:
        """See `Kept`."""
        raise KeyError(*digests)


NOTHING_KEPT = NothingKept()


@dataclass(frozen=True)
class Worker:
    """Answers for parts, in one process."""

    predictor: Predictor
    read: Read
    decode_threads: int
    batch: int
    shape: Shape
    kept: Kept = NOTHING_KEPT
    """Of a dataset: images that need not be read."""
    head_input: HeadInput | None = None
    """Of the predictor's model, where embeddings are asked for."""

    def predict(self, number: int, inputs: Sequence[Input], out: Store) -> Part:
        """Answer for the inputs of a part, and write what came of it, uncommitted."""
        columns = Columns(self.predictor.version.classes, self.shape)
        kept = [file for file in inputs if file.location in self.kept]
        for start in range(0, len(kept), BATCH_OF_KEPT):
            self._answer_kept(kept[start : start + BATCH_OF_KEPT], columns)
        others = [file for file in inputs if file.location not in self.kept]
        broken = self._answer_others(others, columns)
        table = columns.table(inputs)
        answers = write_answers(out, number, table, self.shape.format) if table.num_rows else None
        return Part(
            number=number,
            answers=answers,
            broken=out.put(BROKEN_PARTS, f"{number:06d}.parquet", broken_file(broken))
            if broken
            else None,
            images=table.num_rows,
            unusable=len(broken),
            decisions=dict(Counter(table["decision"].to_pylist())),
        )

    def _answer_kept(self, files: Sequence[Input], columns: "Columns") -> None:
        digests = [str(file.location) for file in files]
        self._add(list(zip(files, digests, strict=True)), self.kept.compute(digests), columns)

    def _answer_others(self, files: Sequence[Input], columns: "Columns") -> list[tuple[str, str]]:
        """Answer for files that have to be read; return those that cannot be used, and why."""
        broken: list[tuple[str, str]] = []
        good: list[tuple[Input, str, NDArray[np.uint8]]] = []
        for file, prepared in self._prepared(files):
            if isinstance(prepared, ImageError):
                broken.append((file.path, str(prepared)))
                continue
            good.append((file, *prepared))
            if len(good) == self.batch:
                self._answer(good, columns)
                good = []
        if good:
            self._answer(good, columns)
        return broken

    def _answer(
        self, images: Sequence[tuple[Input, str, NDArray[np.uint8]]], columns: "Columns"
    ) -> None:
        logits = self.predictor.logits([pixels for _, _, pixels in images])
        computed = Computed(logits, self.head_input.rows() if self.head_input else None)
        self._add([(file, digest) for file, digest, _ in images], computed, columns)

    def _add(
        self, files: Sequence[tuple[Input, str]], computed: Computed, columns: "Columns"
    ) -> None:
        columns.add(files, self.predictor.answer(computed.logits), computed)

    def _prepared(
        self, inputs: Sequence[Input]
    ) -> Iterator[tuple[Input, tuple[str, NDArray[np.uint8]] | ImageError]]:
        """Yield for each input its digest and pixels, or why it has none; in their order."""

        def prepare(file: Input) -> tuple[str, NDArray[np.uint8]] | ImageError:
            try:
                digest, data = self.read(file)
                return digest, self.predictor.prepare(data)
            except ImageError as error:
                return error

        waiting: deque[tuple[Input, Future[Any]]] = deque()
        with ThreadPoolExecutor(self.decode_threads, thread_name_prefix="decode") as pool:
            for file in inputs:
                waiting.append((file, pool.submit(prepare, file)))
                if len(waiting) > AHEAD * self.batch:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()


class Columns:
    """Answers, column by column."""

    def __init__(self, classes: tuple[str, ...], shape: Shape):
        self._classes = classes
        self._shape = shape
        self._rows: dict[Input, dict[str, Any]] = {}

    def add(self, files: Sequence[tuple[Input, str]], answers: Answers, computed: Computed) -> None:
        """Add the answers for files, each with the SHA-256 of its bytes."""
        order = np.argsort(-answers.probabilities, axis=1, kind="stable")[:, : self._shape.top_k]
        for i, (file, digest) in enumerate(files):
            row = {
                "path": file.path,
                "sha256": digest,
                "decision": answers.name(i),
                "classes": [self._classes[c] for c in order[i]],
                "probabilities": answers.probabilities[i][order[i]].astype(np.float32).tolist(),
                "set": answers.set_of(i),
                "distance": float(min(answers.distance[i], np.finfo(np.float32).max)),
            }
            if self._shape.logits:
                row["logits"] = computed.logits[i].tolist()
            if computed.embedding is not None:
                row["embedding"] = computed.embedding[i].tolist()
            self._rows[file] = row

    def table(self, inputs: Sequence[Input]) -> pa.Table:
        """Return a row for each image of inputs, in their order, as docs/predictions.md has it."""
        rows = [self._rows[file] for file in inputs if file in self._rows]
        return pa.Table.from_pylist(rows, schema(self._shape))


def schema(shape: Shape) -> pa.Schema:
    """Return the columns of answers."""
    fields = [
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("decision", pa.string()),
        ("classes", pa.list_(pa.string())),
        ("probabilities", pa.list_(pa.float32())),
        ("set", pa.list_(pa.string())),
        ("distance", pa.float32()),
    ]
    floats = pa.list_(pa.float32())
    wanted = {"logits": shape.logits, "embedding": shape.embedding}
    return pa.schema(fields + [(name, floats) for name, asked in wanted.items() if asked])


def write_answers(out: Store, number: int, table: pa.Table, form: Format) -> ObjectRef:
    """Write the answers of a part; return the reference."""
    name = f"{number:06d}.{form}"
    if form == "jsonl":
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
        return out.put(ANSWERS, name, lines.encode())
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return out.put(ANSWERS, name, file.getvalue())


def broken_file(rows: Sequence[tuple[str, str]]) -> bytes:
    """Return the table of files that are no image that can be used, and why."""
    file = io.BytesIO()
    paths, reasons = [path for path, _ in rows], [reason for _, reason in rows]
    pq.write_table(pa.table({"path": paths, "reason": reasons}, schema=BROKEN), file)
    return file.getvalue()


def read_bytes(read: Callable[[str, int | None], bytes]) -> Read:
    """Return what reads source files, and hashes them."""

    def read_input(file: Input) -> tuple[str, bytes]:
        if file.location is None:
            raise ImageError("its name is not UTF-8")
        data = read(file.location, file.size)
        return sha256(data), data

    return read_input
