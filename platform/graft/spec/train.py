"""Spec sections on training: the recipe."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from graft.spec.section import Momentum, Positive, PositiveFloat, Section, Seed

NotNegative = Annotated[float, Field(ge=0)]


class SGD(Section):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"]
    lr: PositiveFloat = 1e-3
    """Learning rate of the head, and of every stage to which `rates` gives no other."""
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 1e-4
    """Of weights; norms, biases and embeddings are never decayed."""


class AdamW(Section):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"]
    lr: PositiveFloat = 1e-3
    """Learning rate of the head, and of every stage to which `rates` gives no other."""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NotNegative = 1e-2
    """Of weights; norms, biases and embeddings are never decayed."""


Optimizer = Annotated[SGD | AdamW, Field(discriminator="kind")]


class Constant(Section):
    """The learning rate stays."""

    kind: Literal["constant"] = "constant"
    warmup_epochs: NotNegative = 0.0
    """Epochs of linear rise from 0 before."""


class Step(Section):
    """The learning rate is multiplied by `factor` every `every` epochs."""

    kind: Literal["step"]
    every: Positive = 7
    """Epochs."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    warmup_epochs: NotNegative = 0.0
    """Epochs of linear rise from 0 at the beginning."""


class Cosine(Section):
    """The learning rate falls along half a cosine (arXiv:1608.03983, without restarts)."""

    kind: Literal["cosine"]
    warmup_epochs: NotNegative = 0.0
    """Epochs of linear rise from 0 before."""
    final: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of the learning rate left at the end."""


class OneCycle(Section):
    """The learning rate rises to `lr` and falls again, each along half a cosine.

    Smith & Topin 2017, arXiv:1708.07120; momentum stays as it is.
    """

    kind: Literal["one-cycle"]
    peak: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Part of all steps after which the rate is highest."""
    start: Annotated[float, Field(ge=0, lt=1)] = 0.04
    """Part of the learning rate to begin with."""
    final: Annotated[float, Field(ge=0, lt=1)] = 4e-6
    """Part of the learning rate left at the end."""


Schedule = Annotated[Constant | Step | Cosine | OneCycle, Field(discriminator="kind")]


class UniformRates(Section):
    """Every trained stage learns at the optimizer's `lr`."""

    kind: Literal["uniform"] = "uniform"


class DecayedRates(Section):
    """The rate falls from the head towards the image (Howard & Ruder 2018, arXiv:1801.06146)."""

    kind: Literal["decay"]
    factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    """What each stage's rate is of the next one's."""
    backbone: PositiveFloat | None = None
    """Rate of the last stage; null: the head's (`train.optimizer.lr`) times `factor`."""

    @model_validator(mode="after")
    def _acts(self) -> Self:
        if self.factor == 1 and self.backbone is None:
            raise ValueError("factor: 1 without backbone has no effect; use kind: uniform")
        return self


class StageRate(Section):
    """The rate of the stages that a pattern matches."""

    match: str
    """A stage's name, with * and ? as in file names; `graft backbones show ARCH` lists them."""
    lr: PositiveFloat
    """Learning rate."""


class ListedRates(Section):
    """Rates by stage: the first entry that matches counts, the rest learn at `lr`."""

    kind: Literal["list"]
    stages: Annotated[tuple[StageRate, ...], Field(min_length=1)]
    """An entry that is first for no trained stage is an error."""


Rates = Annotated[UniformRates | DecayedRates | ListedRates, Field(discriminator="kind")]


class Unfreeze(Section):
    """A step of gradual unfreezing."""

    epoch: Annotated[int, Field(ge=2)]
    """The first epoch (from 1) at the new freeze depth."""
    freeze: int | str
    """Freeze depth from then on, as `backbone.freeze`; lower than before."""


class EarlyStopping(Section):
    """Stop when validation no longer gets better."""

    metric: Literal["accuracy", "loss"] = "accuracy"
    """Of the validation images."""
    patience: Positive = 5
    """Epochs without a new best before training stops."""
    min_delta: NotNegative = 0.0
    """How much better than the best a new best has to be."""


class Train(Section):
    """The training recipe."""

    epochs: Positive = 8
    batch_size: Positive = 32
    """Images per step, over all workers together."""
    accumulate: Positive = 1
    """Passes in which a worker takes its share of a batch, their gradients summed: for memory,
    or to repeat the passes of more workers (one worker with 2 passes equals two with 1)."""
    seed: Seed = 0
    """Seeds the head's initialisation, the order of images, dropout and mixing."""
    optimizer: Optimizer = SGD(kind="sgd")
    rates: Rates = UniformRates()
    """Learning rates by stage."""
    schedule: Schedule = Constant()
    unfreeze: tuple[Unfreeze, ...] = ()
    """Gradual unfreezing: freeze depths that follow `backbone.freeze`, in order."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a label's probability spread over all classes (arXiv:1512.00567)."""
    class_weights: Literal["none", "balanced"] | dict[str, PositiveFloat] = "none"
    """Weight of each class's images in the loss: `balanced`, inverse to its share of the
    training images, or a mapping of every class. Scaled so that the mean image weighs 1."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of all gradients together; null: not clipped."""
    mixup_alpha: NotNegative = 0.0
    """MixUp (arXiv:1710.09412) with Beta(alpha, alpha); 0: off. With CutMix on too, each batch
    gets one of them."""
    cutmix_alpha: NotNegative = 0.0
    """CutMix (arXiv:1905.04899) with Beta(alpha, alpha); 0: off."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Validate and keep an exponential moving average of the tail, at most this much of the
    old kept per step (less in the first steps: (1 + step) / (10 + step)); null: off."""
    early_stopping: EarlyStopping | None = None
    """null: all epochs are trained."""
    batch_norm: Literal["replica", "sync"] = "replica"
    """Statistics of trained BatchNorm layers: each worker's own batch (rank 0's running
    statistics are kept), or the global batch's (`sync`; GPU only)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: autocast, for GPUs (and CPUs with AMX; slower on others)."""
    compile: bool = False
    """torch.compile of trunk and tail (GPU only)."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        epochs = [step.epoch for step in self.unfreeze]
        if epochs != sorted(set(epochs)):
            raise ValueError(f"unfreeze: epochs {epochs} are not in ascending order")
        if epochs and epochs[-1] > self.epochs:
            raise ValueError(f"unfreeze: epoch {epochs[-1]} is after the last, {self.epochs}")
        stopping = self.early_stopping
        if stopping and stopping.patience >= self.epochs:
            raise ValueError(
                f"early_stopping.patience ({stopping.patience}) has no effect in "
                f"{self.epochs} epochs"
            )
        if isinstance(self.schedule, Step) and self.schedule.every >= self.epochs:
            raise ValueError(
                f"schedule.every ({self.schedule.every}) has no effect in "
                f"{self.epochs} epochs; lower it, or use kind: constant"
            )
        warmup = 0.0 if isinstance(self.schedule, OneCycle) else self.schedule.warmup_epochs
        if warmup >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs ({warmup:g}) leaves nothing of {self.epochs} epochs"
            )
        return self
