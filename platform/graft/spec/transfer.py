"""The spec of a transfer report: a designed experiment on what transfer buys."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from graft.spec.data import Preprocess
from graft.spec.finetune import Finetune, Scaling
from graft.spec.section import Name, Positive, PositiveFloat, Section

Rates = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
Labels = Positive | Annotated[float, Field(gt=0, le=1)]


class Arm(Section):
    """One way to train."""

    freeze: int | str
    """Freeze depth, as `backbone.freeze`."""
    epochs: Positive
    """At the largest label budget; smaller ones get more, so that all take as many steps. Enough
    for validation to get no better: the report says where it still did."""
    patience: Positive | None = None
    """Epochs, counted like `epochs`, without a better validation loss after which training has
    reached its plateau and ends; null: all epochs are trained."""
    rates: Rates
    """Learning rates, of which each label budget takes the one that validates best."""

    @model_validator(mode="after")
    def _patient(self) -> Self:
        if self.patience is not None and self.patience >= self.epochs:
            raise ValueError(f"patience ({self.patience}) has no effect in {self.epochs} epochs")
        return self


class Arms(Section):
    """The ways to train that are compared, all on the same images."""

    scratch: Arm = Arm(freeze=0, epochs=60, patience=20, rates=(3e-3, 1e-2, 3e-2))
    """Random weights, everything trained; at least as many epochs, and patience, as any other."""
    features: Arm = Arm(freeze="all", epochs=20, rates=(1e-3, 3e-3, 1e-2))
    """Feature extraction: the head alone."""
    partial: Arm = Arm(freeze=-2, epochs=20, patience=7, rates=(1e-3, 3e-3, 1e-2))
    """The last stages and the head."""
    full: Arm = Arm(freeze=0, epochs=20, patience=7, rates=(3e-4, 1e-3, 3e-3))
    """Fine-tuning of everything."""

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
    weights: str = "imagenet"
    """As `backbone.weights`."""
    weights_sha256: str | None = None
    preprocess: Preprocess | None = None
    """null: the base's; where that is null too, as the weights were published."""


class TransferReport(Section):
    """What transfer buys on one dataset version: labels, accuracy, time, generalisation."""

    kind: Literal["transfer-report"]
    name: Name
    """Beginning of the report's id."""
    base: Finetune
    """What all arms share: images, backbone and its weights, head, augmentation, recipe."""
    other_backbones: tuple[Pretrained, ...] = ()
    """Compared with the base's, each by the same arms and budgets."""
    arms: Arms = Arms()
    labels: Annotated[tuple[Labels, ...], Field(min_length=1)] = (0.1, 0.25, 0.5, 1.0)
    """Label budgets: shares, or numbers, of each class's training images, in ascending order."""
    seeds: Positive = 5
    """Repetitions, each with its own choice of labels, initial weights and order of images.
    With fewer than 5 no interval is claimed."""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of each label budget that rates and epochs are chosen on, where the version has no
    test images: its validation images are then the test."""

    @property
    def backbones(self) -> tuple[Pretrained, ...]:
        """All backbones, the base's first."""
        own = self.base.backbone
        return (
            Pretrained(
                arch=own.arch,
                weights=own.weights,
                weights_sha256=own.weights_sha256,
                preprocess=self.base.preprocess,
            ),
            *self.other_backbones,
        )

    @property
    def scaling(self) -> Scaling:
        """What one training takes."""
        return self.base.scaling

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.base.register_:
            raise ValueError("base.register has no effect in a report, which registers nothing")
        if any(one.weights == "none" for one in self.backbones):
            raise ValueError("backbone.weights: none: there is nothing to transfer from")
        named = [(one.arch, one.weights) for one in self.backbones]
        if len(set(named)) < len(named):
            raise ValueError("other_backbones: the same backbone and weights are there twice")
        chosen = self.base.dataset
        if chosen.labels is not None or chosen.holdout is not None:
            raise ValueError("base.dataset: the report sets labels and holdout; leave them null")
        if self.base.train.early_stopping or self.base.train.unfreeze:
            raise ValueError(
                "base.train: early_stopping and unfreeze would treat arms unlike; arms have a "
                "patience and a freeze depth each"
            )
        if self.base.scaling.workers != 1:
            raise ValueError("base.scaling.workers: a report's trainings have one worker each")
        if len({type(one) for one in self.labels}) > 1:
            raise ValueError("labels: give shares, or numbers, not both")
        if list(self.labels) != sorted(set(self.labels)):
            raise ValueError("labels: expected ascending budgets, each once")
        return self
