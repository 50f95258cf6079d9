"""The spec of a prediction: a model version over many images, offline."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from graft.spec.finetune import Scaling
from graft.spec.section import Id, Name, Positive, Section

DATASET_SCHEME = "dataset://"
"""Begins a source that is a dataset of the store: ``dataset://NAME[@VERSION]``."""


class Prediction(Section):
    """Answer for all images of a source: `graft predict-batch`."""

    kind: Literal["prediction"]
    name: Name = "prediction"
    """Beginning of the prediction's id."""
    model: str
    """NAME (its champion, or the newest version where none is set), NAME@VERSION or NAME@ALIAS."""
    source: Annotated[str, Field(min_length=1)]
    """A folder or s3:// prefix, with all below it; a .csv or .parquet table with the column `path`;
    .parquet or WebDataset's .tar files that hold images; a .txt file with a path or an s3:// URI in
    each line; or `dataset://NAME[@VERSION]`. Labels are not needed, and not looked at."""
    out: str | None = None
    """Folder or s3:// prefix that the answers are written to, empty or this prediction's own; null:
    the store's `predictions/ID`."""
    format: Literal["parquet", "jsonl"] = "parquet"
    """Of the parts that the answers are written in."""
    top_k: Positive = 5
    """How many classes each answer has, the likeliest first, at most."""
    logits: bool = False
    """Whether each answer has its logits, too."""
    embedding: bool = False
    """Whether each answer has its embedding, too: what the head is given, averaged over places
    where that is a map. torch computes then."""
    engine: Literal["auto", "torch", "onnx"] = "auto"
    """What computes; `auto`: the faster one, as measured once for the version."""
    against: Id | None = None
    """Id of an earlier prediction of the same images, with which this one is compared."""
    part_images: Positive = 1000
    """Images in a part: what is done is kept part by part, and done again if it is interrupted."""
    workers: Positive = 1
    """Most processes that predict at once; as many as there is room for are started."""
    cpus: Positive = 1
    """Logical CPUs of each: threads that compute, and with one more that decode."""
    gpus: Annotated[int, Field(ge=0, le=1)] = 0
    """GPUs of each."""

    @model_validator(mode="after")
    def _check_embedding(self) -> Self:
        if self.embedding and self.engine == "onnx":
            raise ValueError(
                "embedding: torch gives it, and engine is onnx; leave one of them away"
            )
        return self

    @property
    def scaling(self) -> Scaling:
        """Resources of the processes."""
        return Scaling(workers=self.workers, cpus_per_worker=self.cpus, gpus_per_worker=self.gpus)
