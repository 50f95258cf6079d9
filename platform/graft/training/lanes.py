"""Several heads on one trunk, trained as one computation.

Runs that train the head alone and differ only in learning rate and weight decay see the same
activations in the same order. Here their heads are the *lanes* of one forward and backward
pass (`torch.func.vmap`): activations are read once for all, and dropout draws one mask, the
one that each run would draw by itself. Optimisers stay separate. A lane's numbers are those of
`loop.finetune` up to the order of float32 sums.

No library does it: `torch.func` stacks the models, but torch's optimisers step one model with one
rate, and its schedulers count steps of their own. Here each lane has its optimiser, and a
schedule is a function of the step.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from graft.activations.trunk_batches import ActivationBatch
from graft.backbones.transfer_model import TransferModel
from graft.data.loader import Batch, evaluation_slices, to_tensor
from graft.data.views import view_of_epoch
from graft.spec import Train
from graft.training.best_epoch_and_stopping import require_finite_start
from graft.training.loop import TrainingData
from graft.training.loss import Objective
from graft.training.metrics import Tally, TrainTally, image_losses
from graft.training.optim import make_optimizer, rate_factor
from graft.training.training_plan import TrainingPlan

LANES_BYTES = 1 << 30
"""Memory for the heads of one computation."""


@dataclass(frozen=True)
class LanesDone:
    """One epoch of all lanes is trained and validated."""

    epoch: int
    """From 1; 0 before any training, where `train` is empty."""
    train: list[dict[str, float]]
    """Metrics of training by lane."""
    val: list[dict[str, float]]
    """Metrics of validation by lane."""
    tails: list[dict[str, Tensor]]
    """Each lane's parameters, by torchvision's names: copy them before the next epoch."""


class _MeanForPooling(TorchFunctionMode):
    """Replaces average pooling to one pixel by a mean, which vmap can batch."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function, or its replacement."""
        if func is functional.adaptive_avg_pool2d and args[1] in (1, (1, 1)):
            return args[0].mean((-2, -1), keepdim=True)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _Lane:
    parameters: dict[str, nn.Parameter]
    """By torchvision's names."""
    optimizer: torch.optim.Optimizer
    train: Train

    @classmethod
    def of(cls, model: TransferModel, plan: TrainingPlan, train: Train) -> Self:
        """Start a lane from a copy of the model's head."""
        parameters = {
            name: nn.Parameter(p.detach().clone()) for name, p in model.named_tail_parameters()
        }
        return cls(parameters, make_optimizer(parameters, model.stages, plan, train), train)

    def step(self, factor: float) -> None:
        """Take an optimiser step; every group's rate is multiplied by `factor`."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        if self.train.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.train.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def tail(self) -> dict[str, Tensor]:
        """Return the parameters without their gradients."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}


@dataclass(frozen=True)
class _Heads:
    """The lanes of one computation, on one trunk and the same images."""

    model: TransferModel
    data: TrainingData
    lanes: list[_Lane]
    names: dict[str, str]
    """From the tail's own names of parameters, which vmap takes, to torchvision's."""
    train: Train
    """The recipe; lanes have learning rates and weight decays of their own."""
    objective: Objective
    device: torch.device

    def forward(self, batch: Batch | ActivationBatch) -> Tensor:
        """Return every lane's logits: (L, B, C)."""
        if isinstance(batch, ActivationBatch):
            activations = batch.activations.to(self.device)
        else:
            images = to_tensor(batch.images, self.data.preprocess, self.device)
            activations = self.model.trunk(images)

        def logits_of(parameters: dict[str, Tensor]) -> Tensor:
            logits: Tensor = functional_call(self.model.tail, parameters, (activations,))
            return logits

        stacked = {
            inner: torch.stack([lane.parameters[name] for lane in self.lanes])
            for inner, name in self.names.items()
        }
        with _MeanForPooling():
            logits: Tensor = vmap(logits_of, randomness="same")(stacked)
        return logits

    def validate(self) -> list[dict[str, float]]:
        """Return each lane's metrics of validation."""
        self.model.eval()
        classes = len(self.data.classes)
        tallies = [Tally.empty(classes, self.device) for _ in self.lanes]
        slices = evaluation_slices(len(self.data.val), self.train.batch_size, 0, 1)
        with torch.no_grad():
            for batch in self.data.batches("val", slices, 0, self.model.depth):
                labels = torch.from_numpy(batch.labels).to(self.device)
                weights = torch.from_numpy(batch.slice.weights).to(self.device)
                for tally, logits in zip(tallies, self.forward(batch), strict=True):
                    tally.add(logits, labels, image_losses(logits, labels), weights)
        return [tally.metrics() for tally in tallies]

    def train_epoch(self, epoch: int) -> list[dict[str, float]]:
        """Train epoch `epoch` (from 0); return each lane's loss and accuracy."""
        train = self.train
        self.model.train()
        tallies = [TrainTally.empty(self.device) for _ in self.lanes]
        slices = self.data.training_slices(train, epoch)
        view = view_of_epoch(self.data.augment, epoch)
        batches = self.data.batches("train", slices, view, self.model.depth)
        for number, batch in enumerate(batches):
            step = epoch * len(slices) + number
            factor = rate_factor(train.schedule, step, len(slices), train.epochs)
            labels = torch.from_numpy(batch.labels).to(self.device)
            weights = torch.from_numpy(batch.slice.weights).to(self.device)
            logits = self.forward(batch)
            losses = [self.objective.losses(lane, labels) * weights for lane in logits]
            # Lanes share no parameter: the gradient of the sum is each lane's own.
            total = torch.stack(losses).sum() * (1 / batch.slice.total)
            torch.autograd.backward(total)
            for lane in self.lanes:
                lane.step(factor)
            for tally, row, loss in zip(tallies, logits.detach(), losses, strict=True):
                tally.add(row, labels, loss.detach(), weights)
        return [tally.summary() for tally in tallies]


def can_be_lane(train: Train) -> bool:
    """Whether a recipe that trains the head alone can be a lane among others."""
    return (
        train.accumulate == 1
        and train.ema_decay is None
        and train.early_stopping is None
        and not train.unfreeze
        and not (train.mixup_alpha or train.cutmix_alpha)
        and not train.compile
        and train.precision != "bf16"  # vmap does not know every layer in bf16
    )


def lanes_at_once(model: TransferModel) -> int:
    """Return how many heads like the model's fit into the memory for one computation.

    A head takes its weights, their stacked copy, gradients and an optimiser's two moments, all in
    float32.
    """
    weights = sum(parameter.numel() for _, parameter in model.named_tail_parameters())
    return max(1, LANES_BYTES // (5 * 4 * weights))


def train_lanes(
    model: TransferModel,
    data: TrainingData,
    recipes: Sequence[tuple[TrainingPlan, Train]],
    device: torch.device,
) -> Iterator[LanesDone]:
    """Train one head for each recipe, all starting from the model's; the model stays as it is.

    Recipes are `can_be_lane`, and differ only in `optimizer.lr` and `optimizer.weight_decay`.

    Raises:
        RunFailed: the loss is not finite before any step.
    """
    train = recipes[0][1]
    torch.manual_seed(train.seed * 1_000_003)
    lanes = [_Lane.of(model, plan, recipe) for plan, recipe in recipes]
    by_parameter = {id(p): name for name, p in model.named_tail_parameters()}
    names = {inner: by_parameter[id(p)] for inner, p in model.tail.named_parameters()}
    objective = Objective.of(train, data.train.labels, data.classes, device)
    heads = _Heads(model, data, lanes, names, train, objective, device)
    initial = heads.validate()
    require_finite_start(initial[0]["loss"])  # all lanes start from one head
    yield LanesDone(0, [], initial, [lane.tail() for lane in lanes])
    for epoch in range(train.epochs):
        trained = heads.train_epoch(epoch)
        yield LanesDone(epoch + 1, trained, heads.validate(), [lane.tail() for lane in lanes])
