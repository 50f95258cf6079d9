"""Spec sections on images: which are used, how they become tensors, how they are loaded."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from graft.spec.section import Fraction, Name, Positive, Section, Seed


class Dataset(Section):
    """The dataset version that images come from, and which of its images are used."""

    name: Name
    """Name that the dataset was imported under (`graft data import`)."""
    version: str = "latest"
    """A version, an unambiguous beginning of one, or `latest`; a run records the full version."""
    labels: Positive | Annotated[float, Field(gt=0, le=1)] | None = None
    """How many labelled images of each class are trained on: a share (0.25) or a number (10), so
    that 1.0 is all of them and 1 is one; null: all. With the same `labels_seed`, a smaller choice
    is part of every larger one."""
    labels_seed: Seed = 0
    """Seed that chooses those images."""
    holdout: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of each class's chosen images that is held out for validation, in place of the
    version's validation images, which the job then never sees; null: nothing is held out."""

    @model_validator(mode="after")
    def _acts(self) -> Self:
        if self.labels_seed and self.labels is None and self.holdout is None:
            raise ValueError("labels_seed has no effect without labels or holdout")
        return self

    @property
    def labels_in_words(self) -> str | None:
        """What `labels` means, on a line, so that 1 is not taken for 1.0; None: all images."""
        if self.labels is None:
            return None
        if isinstance(self.labels, float):
            share = f"{self.labels:.2%}".replace(".00", "")
            return f"dataset.labels: {self.labels}: {share} of each class's training images"
        images = "a single training image" if self.labels == 1 else f"{self.labels} training images"
        all_of_them = " (all of them is 1.0)" if self.labels == 1 else ""
        return f"dataset.labels: {self.labels}: {images} of each class{all_of_them}"


class Preprocess(Section):
    """How a decoded image becomes the tensor that the backbone sees; serving does the same."""

    resize: Positive = 256
    """Length of an image's shorter side, in pixels, before evaluation crops its centre."""
    crop: Positive = 224
    """Side of the square that the backbone sees, in pixels."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How images are resized, always antialiased."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from each of R, G, B after scaling to 0..1 (default: ImageNet's)."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divides each of R, G, B after `mean` is subtracted (default: ImageNet's)."""

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop > self.resize:
            raise ValueError(f"crop ({self.crop}) is larger than resize ({self.resize})")
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        return self


class Contract(Preprocess):
    """The preprocessing contract: all that happens from an image file's bytes to the tensor.

    EXIF orientation, RGB, the shrink of import, resize, crop, normalisation, in that order.
    Training reads images that import has shrunk; serving starts from the file's bytes.
    """

    max_side: Positive
    """Longer side, in pixels, above which import shrinks an image."""


class NoAugment(Section):
    """No augmentation: every epoch trains on view 0, the evaluation transform."""

    kind: Literal["none"]


class StandardAugment(Section):
    """Random resized crop and horizontal flip (Szegedy et al. 2015, arXiv:1409.4842)."""

    kind: Literal["standard"] = "standard"
    views: Positive | Literal["live"] = "live"
    """Number of augmented views of each image: epoch e trains on view 1 + (e mod views);
    `live`: a new view every epoch."""
    seed: Seed = 0
    """A view depends on nothing but this seed, the image and the view's number."""
    scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    """Smallest and largest part of the image's area that a crop covers."""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """Smallest and largest aspect ratio of a crop."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip; use 0 for images that mirroring would change, such as
    letters."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be [smallest, largest], both above 0")
        return self


Augment = Annotated[NoAugment | StandardAugment, Field(discriminator="kind")]


class Loader(Section):
    """How images are loaded into memory; no setting here changes what is trained."""

    threads: Positive | Literal["auto"] = "auto"
    """Decoding threads in each worker; `auto`: one more than its CPUs."""
    prefetch: Positive = 4
    """Batches prepared ahead."""
    decoded_cache_mb: Annotated[int, Field(ge=0)] = 1024
    """Memory of each worker, in MB, for images that stay decoded from one epoch to the next."""
