"""Spec sections on training: the recipe."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from graft.spec.checkpointing import Checkpointing
from graft.spec.explain import nearest
from graft.spec.section import Momentum, Positive, PositiveFloat, Section, Seed
from graft.spec.since import added

NotNegative = Annotated[float, Field(ge=0)]
METRICS = {
    "val.accuracy": "max",
    "val.macro_f1": "max",
    "val.top5_accuracy": "max",
    "val.loss": "min",
    "val.ece": "min",
}
"""Metrics that epochs and trials can be compared by, and whether more (max) or less (min) is
better."""


def _known_metric(metric: str) -> str:
    if metric not in METRICS:
        raise ValueError(f"there is no metric '{metric}'{nearest(metric, METRICS)}")
    return metric


Metric = Annotated[str, AfterValidator(_known_metric)]


class SGD(Section):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"]
    lr: PositiveFloat = 1e-3
    """Learning rate of the head, and of every stage to which `rates` gives no other."""
    momentum: Momentum = 0.9
    """Momentum; 0: none."""
    weight_decay: NotNegative = 1e-4
    """Weight decay; norms, biases and embeddings are never decayed."""


class AdamW(Section):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"]
    lr: PositiveFloat = 1e-3
    """Learning rate of the head, and of every stage to which `rates` gives no other."""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    """Decay rates of the running means of gradients and of their squares."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator of each step."""
    weight_decay: NotNegative = 1e-2
    """Weight decay; norms, biases and embeddings are never decayed."""


Optimizer = Annotated[SGD | AdamW, Field(discriminator="kind")]


class Constant(Section):
    """The learning rate stays the same."""

    kind: Literal["constant"] = "constant"
    warmup_epochs: NotNegative = 0.0
    """Epochs at the beginning in which the rate rises linearly from 0."""


class StepDecay(Section):
    """The learning rate is multiplied by `factor` every `every` epochs."""

    kind: Literal["step"]
    every: Positive = 7
    """Epochs between two steps."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Factor of each step."""
    warmup_epochs: NotNegative = 0.0
    """Epochs at the beginning in which the rate rises linearly from 0."""


class Cosine(Section):
    """The learning rate falls along half a cosine (arXiv:1608.03983, without restarts)."""

    kind: Literal["cosine"]
    warmup_epochs: NotNegative = 0.0
    """Epochs at the beginning in which the rate rises linearly from 0."""
    final: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of the learning rate that is left at the end."""


class OneCycle(Section):
    """The learning rate rises to `lr` and falls again, each along half a cosine.

    Smith & Topin 2017, arXiv:1708.07120; momentum stays as it is.
    """

    kind: Literal["one-cycle"]
    peak: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Fraction of all steps after which the rate is highest."""
    start: Annotated[float, Field(ge=0, lt=1)] = 0.04
    """Fraction of the learning rate at the beginning."""
    final: Annotated[float, Field(ge=0, lt=1)] = 4e-6
    """Fraction of the learning rate that is left at the end."""


Schedule = Annotated[Constant | StepDecay | Cosine | OneCycle, Field(discriminator="kind")]


class UniformRates(Section):
    """Every trained stage learns at the rate `train.optimizer.lr`."""

    kind: Literal["uniform"] = "uniform"


class DecayedRates(Section):
    """The rate falls from the head towards the image (Howard & Ruder 2018, arXiv:1801.06146)."""

    kind: Literal["decay"]
    factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Each stage's rate is this factor times the rate of the stage after it."""
    backbone: PositiveFloat | None = None
    """Rate of the last stage; null: the head's (`train.optimizer.lr`) times `factor`."""

    @model_validator(mode="after")
    def _acts(self) -> Self:
        if self.factor == 1 and self.backbone is None:
            raise ValueError("factor: 1 without backbone has no effect; use kind: uniform")
        return self


class StageRate(Section):
    """The learning rate of all stages that a pattern matches."""

    match: str
    """A stage's name, with * and ? as in file names; `graft backbones show ARCH` lists them."""
    lr: PositiveFloat
    """Learning rate."""


class ListedRates(Section):
    """Rates by stage: the first entry that matches counts; stages without one learn at `lr`."""

    kind: Literal["list"]
    stages: Annotated[tuple[StageRate, ...], Field(min_length=1)]
    """An entry that is not the first match of any trained stage is an error."""


Rates = Annotated[UniformRates | DecayedRates | ListedRates, Field(discriminator="kind")]


class Unfreeze(Section):
    """One step of gradual unfreezing."""

    epoch: Annotated[int, Field(ge=2)]
    """First epoch at the new freeze depth; epochs count from 1."""
    freeze: int | str
    """Freeze depth from that epoch on, written as `backbone.freeze`; lower than before."""


class EarlyStopping(Section):
    """Training stops when validation no longer improves."""

    metric: Literal["accuracy", "loss"] | None = None
    """Metric on the validation images; null: `train.metric`."""
    patience: Positive = 5
    """Epochs without a new best value after which training stops."""
    min_delta: NotNegative = 0.0
    """Smallest improvement on the best value that counts as a new best."""


class Train(Section):
    """The training recipe."""

    epochs: Positive = 8
    """Passes over the training images."""
    batch_size: Positive = 32
    """Images per step, over all workers together."""
    accumulate: Positive = 1
    """Number of passes in which a worker processes its part of a batch, with gradients summed:
    saves memory, or repeats what more workers do (1 worker with 2 passes equals 2 with 1)."""
    seed: Seed = 0
    """Seed of the head's initialisation, the order of images, dropout and mixing."""
    shuffle: Literal["auto", "full", "blocks"] = added("0.1.0", "auto")
    """In which order an epoch's images come: `full`: any order, each image read alone; `blocks`:
    images of 768 random blocks of 1 MB at a time, each read at once; `auto`: `full` where the
    dataset is in a directory or a node's cache holds it, as the run's first attempt finds."""
    optimizer: Optimizer = SGD(kind="sgd")
    rates: Rates = UniformRates()
    """Learning rates by stage."""
    schedule: Schedule = Constant()
    unfreeze: tuple[Unfreeze, ...] = ()
    """Gradual unfreezing: the freeze depths after `backbone.freeze`, in order of epochs."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a label's probability that is spread over all classes (arXiv:1512.00567)."""
    class_weights: Literal["none", "balanced"] | dict[str, PositiveFloat] = "none"
    """Weight of each class's images in the loss: `balanced`: inverse to the class's share of the
    training images; or a mapping from every class. Weights are scaled to a mean of 1 per image."""
    logit_adjustment: NotNegative = added("0.1.0", 0.0)
    """Logits of training get so many times the logarithm of their class's share of the training
    images (arXiv:2007.07314): with 1 rare classes are answered as readily as frequent ones; 0: off.
    """
    clip_norm: PositiveFloat | None = None
    """Largest norm of all gradients together, to which they are clipped; null: not clipped."""
    mixup_alpha: NotNegative = 0.0
    """MixUp (arXiv:1710.09412) with Beta(alpha, alpha); 0: off. If CutMix is on, too, each batch
    gets one of the two."""
    cutmix_alpha: NotNegative = 0.0
    """CutMix (arXiv:1905.04899) with Beta(alpha, alpha); 0: off."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of an exponential moving average of the tail, which is then validated and
    stored instead of the tail; in the first steps the decay is lower, (1 + step) / (10 + step);
    null: off."""
    metric: Metric | None = None
    """Validation metric that epochs are compared by: which one is the best, and whether training
    still gets better: `val.accuracy`, `val.macro_f1`, `val.top5_accuracy` (needs more than 5
    classes), `val.loss` or `val.ece`; null: `val.accuracy`, in a sweep its `search.metric`. Of two
    epochs with the same value, the one of lower loss is better."""
    early_stopping: EarlyStopping | None = None
    """When to stop before the last epoch; null: all epochs are trained."""
    batch_norm: Literal["replica", "sync"] = "replica"
    """Which images trained BatchNorm layers take their statistics from: `replica`: those of the
    worker (checkpoints have the first worker's running statistics); `sync`: the whole batch (GPU
    only)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: autocast to bfloat16, for GPUs and CPUs with AMX; slower on other CPUs."""
    compile: bool = False
    """Whether trunk and tail are compiled by torch.compile (GPU only)."""
    checkpoint: Checkpointing = added("0.1.0", Checkpointing())
    """When a checkpoint is made inside an epoch."""

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
        if isinstance(self.schedule, StepDecay) and self.schedule.every >= self.epochs:
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
