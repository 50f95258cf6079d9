"""The spec of a transfer report: a designed experiment on what transfer gains."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from graft.spec.data import Preprocess
from graft.spec.finetune import Finetune, Scaling
from graft.spec.section import Digest, Name, Positive, PositiveFloat, Section

LearningRates = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
Labels = Positive | Annotated[float, Field(gt=0, le=1)]


class Arm(Section):
    """A way to train."""

    freeze: int | str
    """Freeze depth, written as `backbone.freeze`."""
    epochs: Positive
    """Epochs at the largest label budget; smaller budgets get more, so that all take equally many
    steps. Give enough for validation to stop improving: the report says where it still did."""
    patience: Positive | None = None
    """Training ends, as on a plateau, after so many epochs (counted like `epochs`) without a better
    validation loss; null: all epochs are trained."""
    rates: LearningRates
    """Learning rates to try; each label budget uses the rate that validates best."""

    @model_validator(mode="after")
    def _patient(self) -> Self:
        if self.patience is not None and self.patience >= self.epochs:
            raise ValueError(f"patience ({self.patience}) has no effect in {self.epochs} epochs")
        return self


class Arms(Section):
    """The ways to train that the report compares, all on the same images."""

    scratch: Arm = Arm(freeze=0, epochs=60, patience=20, rates=(3e-3, 1e-2, 3e-2))
    """Random weights, everything trained; epochs and patience at least those of every other arm."""
    features: Arm = Arm(freeze="all", epochs=20, rates=(1e-3, 3e-3, 1e-2))
    """Feature extraction: only the head is trained."""
    partial: Arm = Arm(freeze=-2, epochs=20, patience=7, rates=(1e-3, 3e-3, 1e-2))
    """The last stages and the head are trained."""
    full: Arm = Arm(freeze=0, epochs=20, patience=7, rates=(3e-4, 1e-3, 3e-3))
    """Fine-tuning: everything is trained."""

    @model_validator(mode="after")
    def _fair(self) -> Self:
        others = (self.features, self.partial, self.full)
        most = max(arm.epochs for arm in others)
        if self.scratch.epochs < most:
            raise ValueError(
                f"scratch.epochs ({self.scratch.epochs}) is less than another arm's ({most}): "
                "scratch would be starved"
            )
        least = max(min(arm.patience or arm.epochs, arm.epochs) for arm in others)
        if self.scratch.patience is not None and self.scratch.patience < least:
            raise ValueError(
                f"scratch.patience ({self.scratch.patience}) is less than another arm's "
                f"({least}): scratch would be starved"
            )
        if self.scratch.freeze != 0:
            raise ValueError("scratch.freeze: nothing of random weights is worth freezing; use 0")
        return self


class Pretrained(Section):
    """A backbone and its weights."""

    arch: str
    """As `backbone.arch`."""
    weights: str = "imagenet"
    """As `backbone.weights`."""
    weights_sha256: Digest | None = None
    """As `backbone.weights_sha256`."""
    preprocess: Preprocess | None = None
    """null: the base's; if that is null, too, the preprocessing that the weights were published
    with."""


class TransferReport(Section):
    """What transfer gains on a dataset version, in labels, accuracy, time and generalisation."""

    kind: Literal["transfer-report"]
    name: Name
    """Beginning of the report's id."""
    base: Finetune
    """The spec that all arms share: images, backbone, weights, head, augmentation, recipe."""
    other_backbones: tuple[Pretrained, ...] = ()
    """Backbones to compare with the base's, each by the same arms and budgets."""
    arms: Arms = Arms()
    labels: Annotated[tuple[Labels, ...], Field(min_length=1)] = (0.1, 0.25, 0.5, 1.0)
    """Label budgets in ascending order: all shares, or all numbers, of each class's training
    images."""
    seeds: Positive = 5
    """Number of repetitions, each with another choice of labels, initial weights and order of
    images. With fewer than 3 the report claims no interval, with fewer than 7 not
    that an arm is sooner as good."""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Used if the version has no test images, so that its validation images are the test: share
    of each label budget that learning rates and epochs are chosen on."""

    @property
    def backbones(self) -> tuple[Pretrained, ...]:
        """All backbones, the base's first."""
        backbone = self.base.backbone
        return (
            Pretrained(
                arch=backbone.arch,
                weights=backbone.weights,
                weights_sha256=backbone.weights_sha256,
                preprocess=self.base.preprocess,
            ),
            *self.other_backbones,
        )

    @property
    def scaling(self) -> Scaling:
        """Resources of each training."""
        return self.base.scaling

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.base.register_:
            raise ValueError("base.register has no effect in a report, which registers nothing")
        if any(backbone.weights == "none" for backbone in self.backbones):
            raise ValueError("backbone.weights: none: there is nothing to transfer from")
        pairs = [(backbone.arch, backbone.weights) for backbone in self.backbones]
        if len(set(pairs)) < len(pairs):
            raise ValueError("other_backbones: the same backbone and weights are there twice")
        dataset = self.base.dataset
        if dataset.labels is not None or dataset.holdout is not None:
            raise ValueError("base.dataset: the report sets labels and holdout; leave them null")
        if self.base.train.metric:
            raise ValueError(
                "base.train.metric has no effect in a report, which compares epochs by val.loss"
            )
        if self.base.train.early_stopping or self.base.train.unfreeze:
            raise ValueError(
                "base.train: early_stopping and unfreeze would treat arms unlike; arms have a "
                "patience and a freeze depth each"
            )
        if self.base.scaling.workers != 1:
            raise ValueError("base.scaling.workers: a report's trainings have one worker each")
        if len({type(labels) for labels in self.labels}) > 1:
            raise ValueError("labels: give shares, or numbers, not both")
        if list(self.labels) != sorted(set(self.labels)):
            raise ValueError("labels: expected ascending budgets, each once")
        return self
