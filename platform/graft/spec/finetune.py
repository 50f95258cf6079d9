"""The spec of a fine-tuning job."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from graft.spec.backbone_and_head import Backbone, Head, LinearHead
from graft.spec.data import Augment, Dataset, Loader, Preprocess, StandardAugment
from graft.spec.section import AliasName, Name, Positive, PositiveFloat, Section
from graft.spec.since import added
from graft.spec.train import Train


class Scaling(Section):
    """Workers and their resources, and what happens when one of them fails."""

    workers: Positive = 1
    """Number of Ray Train workers; each batch is split over them."""
    cpus_per_worker: Positive = 1
    """Logical CPUs that each worker reserves; also its number of torch threads."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    """GPUs that each worker uses."""
    max_restarts: Annotated[int, Field(ge=0)] = 2
    """How often training is started again from the last checkpoint after a worker died."""
    stall_timeout_s: PositiveFloat = 600.0
    """Seconds without a finished step after which an attempt counts as dead."""


class Register(Section):
    """The model name under which finished weights are registered as a new version."""

    model: Name
    """Name of the model."""
    weights: Literal["best", "last"] = "best"
    """`best`: weights of the best epoch by `train.metric`; `last`: of the last epoch."""
    alias: AliasName | None = None
    """Alias that will point at the new version; null: none. `champion` stays where it is if reports
    show the version to be worse."""
    calibrate: bool = added("0.1.0", False)
    """Whether the new version is calibrated then, as `graft models calibrate` does, where that is
    shown to help."""


class Finetune(Section):
    """Fine-tune one backbone on one dataset version."""

    kind: Literal["finetune"]
    name: Name
    """Beginning of the run's id."""
    dataset: Dataset
    backbone: Backbone
    preprocess: Preprocess | None = None
    """null: the preprocessing that the weights were published or trained with; where that is
    unknown, ImageNet's usual."""
    head: Head = LinearHead()
    augment: Augment = StandardAugment()
    cache: Literal["auto", "on", "off"] = "auto"
    """Whether a frozen trunk's activations are cached in the store and read instead of computed;
    `auto`: where that costs less. Never changes what is trained."""
    cache_dtype: Literal["float32", "float16"] = "float32"
    """Number format of cached activations. float16 halves the bytes and rounds the values; losses
    then agree with those of training without the cache within 5 % or 0.001."""
    train: Train = Train()
    loader: Loader = Loader()
    scaling: Scaling = Scaling()
    register_: Register | None = Field(default=None, alias="register")
    """Model to register the weights under; null: they stay in the run."""

    @property
    def cache_refusal(self) -> str | None:
        """Why this job can read no cached activations; None if it can."""
        if self.cache == "off":
            return "cache is off"
        if self.train.mixup_alpha or self.train.cutmix_alpha:
            return "MixUp and CutMix mix images before they reach the trunk"
        if self.train.precision == "bf16":
            return "a trunk in bf16 is computed where it is used"
        return None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.train.batch_size < self.scaling.workers:
            raise ValueError(
                f"train.batch_size ({self.train.batch_size}) is smaller than "
                f"scaling.workers ({self.scaling.workers}): a worker would have no image"
            )
        share = self.train.batch_size // self.scaling.workers
        if self.train.accumulate > share:
            raise ValueError(
                f"train.accumulate ({self.train.accumulate}) is more than the {share} images "
                "that a worker has of a batch"
            )
        if self.train.batch_norm == "sync" and self.scaling.gpus_per_worker == 0:
            raise ValueError(
                "train.batch_norm: sync needs scaling.gpus_per_worker: 1; "
                "torch synchronises BatchNorm on GPUs only"
            )
        if self.train.batch_norm == "sync" and self.scaling.workers == 1:
            raise ValueError("train.batch_norm: sync has no effect with one worker")
        if self.train.compile and self.scaling.gpus_per_worker == 0:
            raise ValueError("train.compile: true needs scaling.gpus_per_worker: 1")
        if self.cache == "on" and (reason := self.cache_refusal):
            raise ValueError(f"cache: on has no effect: {reason}; use auto")
        if self.cache_dtype == "float16" and (reason := self.cache_refusal):
            raise ValueError(f"cache_dtype: float16 has no effect: {reason}")
        hashed = self.backbone.weights != "none" and "model://" not in self.backbone.weights
        if self.backbone.weights_sha256 and not hashed:
            raise ValueError(
                f"backbone.weights_sha256 has no effect with weights: {self.backbone.weights}"
            )
        return self
