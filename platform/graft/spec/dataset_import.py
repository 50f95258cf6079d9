"""The spec of an import: labelled images become a dataset version, on a cluster."""

from typing import Annotated, Literal

from pydantic import Field

from graft.spec.finetune import Scaling
from graft.spec.section import Name, Positive, Section, Seed

_Part = Annotated[float, Field(ge=0, lt=1)]


class Import(Section):
    """Import images as an immutable dataset version: `graft data import` on many processes."""

    kind: Literal["import"]
    name: Name
    """Name of the dataset, and beginning of the job's id."""
    source: Annotated[str, Field(min_length=1)]
    """What `graft data import` takes: an s3:// prefix or a folder with a folder for each class, or
    with .parquet or WebDataset's .tar files that hold images; one such file; or a .csv or .parquet
    table of paths and labels."""
    add_to: str | None = None
    """Version of the dataset that the images are added to, or the beginning of one, or `latest`:
    the new version has all of its images, in their splits, and its settings; null: the images are
    all that the version has."""
    labels: Annotated[str, Field(min_length=1)] | None = None
    """A .csv or .parquet table whose labels take the place of the source's own; null: none."""
    max_side: Annotated[int, Field(gt=0, le=16383)] | None = None
    """Longer side, in pixels, above which an image is stored shrunk; null: 512, or what `add_to`
    has."""
    val_fraction: _Part | None = None
    """Part of each class that validates, where the source has no val split; null: 0.2, or what
    `add_to` has."""
    test_fraction: _Part | None = None
    """Part of each class that is held out for a test of the final model, where the source has no
    test split, 0 for none; null: 0.1, or what `add_to` has."""
    seed: Seed | None = None
    """Seeds the choice of splits; null: 0, or what `add_to` has."""
    skip_bad: bool = False
    """Whether files that are no usable images are left out; else they end the import."""
    part_files: Positive = 1024
    """Files in a part: what is done is kept part by part, and done again if it is interrupted."""
    workers: Positive = 1
    """Most processes that import at once; as many as there is room for are started."""
    cpus: Positive = 1
    """Logical CPUs of each; it has threads for more, which wait for the source."""

    @property
    def scaling(self) -> Scaling:
        """Resources of the processes."""
        return Scaling(workers=self.workers, cpus_per_worker=self.cpus)
