"""Several heads on one trunk, trained as one computation.

Runs that train the head alone and differ only in learning rate and weight decay see the same
activations in the same order. Here their heads are the *lanes* of one forward and backward
pass (`torch.func.vmap`): activations are read once for all, and dropout draws one mask, the
one that each run would draw by itself. Optimisers stay separate. A lane's numbers are those of
`loop.finetune` up to the order of float32 sums.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from graft.activations.batches import ActivationBatch
from graft.backbones.model import TransferModel
from graft.data.loader import Batch, evaluation_shares, to_tensor, training_shares
from graft.data.views import view_of_epoch
from graft.spec import Train
from graft.training.loop import Data
from graft.training.metrics import Tally, image_losses
from graft.training.objective import Objective
from graft.training.optim import make_optimizer, rate_factor
from graft.training.plan import Plan

LANES_BYTES = 1 << 30
"""Memory for the heads of one computation."""


@dataclass(frozen=True)
class LanesDone:
    """One epoch of all lanes is trained and validated."""

    epoch: int
    """From 1; 0 before any training, where `train` is empty."""
    train: list[dict[str, float]]
    """By lane."""
    val: list[dict[str, Any]]
    tails: list[dict[str, Tensor]]
    """Each lane's parameters, by torchvision's names: copy them, or be done before going on."""


class _MeanForPooling(TorchFunctionMode):
    """Average pooling to one pixel as a mean, of which vmap knows how to batch it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace the one function."""
        if func is functional.adaptive_avg_pool2d and args[1] in (1, (1, 1)):
            return args[0].mean((-2, -1), keepdim=True)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _Lane:
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    train: Train


def laned(train: Train) -> bool:
    """Whether a recipe that trains the head alone can be a lane among others."""
    return (
        train.accumulate == 1
        and train.ema_decay is None
        and train.early_stopping is None
        and not train.unfreeze
        and not (train.mixup_alpha or train.cutmix_alpha)
        and not train.compile
        and train.precision != "bf16"  # of which vmap does not know every layer
    )


def lanes_at_once(model: TransferModel) -> int:
    """Return how many heads of a kind are trained as one computation, for the memory they take:
    weights, their stacked copy, gradients and an optimiser's two moments, in float32."""
    weights = sum(parameter.numel() for _, parameter in model.named_tail_parameters())
    return max(1, LANES_BYTES // (5 * 4 * weights))


def train_lanes(
    model: TransferModel, data: Data, recipes: Sequence[tuple[Plan, Train]], device: torch.device
) -> Iterator[LanesDone]:
    """Train one head for each recipe, all from the model's own; the model stays as it is.

    Recipes are `laned`, and differ only in `optimizer.lr` and `optimizer.weight_decay`.
    """
    train = recipes[0][1]
    torch.manual_seed(train.seed * 1_000_003)
    own = {id(p): name for name, p in model.named_tail_parameters()}
    # vmap speaks of the tail's own names, optimisers and checkpoints of torchvision's.
    names = {inner: own[id(p)] for inner, p in model.tail.named_parameters()}
    lanes = [_lane(model, plan, recipe) for plan, recipe in recipes]
    labels = [image.label for image in data.train]
    objective = Objective.of(train, labels, data.classes, device)

    def forward(batch: Batch | ActivationBatch) -> Tensor:
        """Return every lane's logits: (L, B, C)."""

        if isinstance(batch, ActivationBatch):
            activations = batch.activations.to(device)
        else:
            activations = model.trunk(to_tensor(batch.images, data.preprocess, device))

        def one(parameters: dict[str, Tensor]) -> Tensor:
            logits: Tensor = functional_call(model.tail, parameters, (activations,))
            return logits

        stacked = {
            inner: torch.stack([lane.parameters[name] for lane in lanes])
            for inner, name in names.items()
        }
        with _MeanForPooling():
            logits: Tensor = vmap(one, randomness="same")(stacked)
        return logits

    def validate() -> list[dict[str, Any]]:
        model.eval()
        tallies = [Tally.empty(len(data.classes), device) for _ in lanes]
        shares = evaluation_shares(len(data.val), train.batch_size, 0, 1)
        with torch.no_grad():
            for batch in data.batches("val", shares, 0, model.depth):
                targets = torch.from_numpy(batch.labels).to(device)
                weights = torch.from_numpy(batch.share.weights).to(device)
                for tally, logits in zip(tallies, forward(batch), strict=True):
                    tally.add(logits, targets, image_losses(logits, targets), weights)
        return [tally.metrics(data.classes) for tally in tallies]

    def train_epoch(epoch: int) -> list[dict[str, float]]:
        model.train()
        tallies = [Tally.empty(len(data.classes), device) for _ in lanes]
        shares = training_shares(len(data.train), train.batch_size, train.seed, epoch, 0, 1)
        view = view_of_epoch(data.augment, epoch)
        batches = data.batches("train", shares, view, model.depth)
        for number, batch in enumerate(batches):
            step = epoch * len(shares) + number
            factor = rate_factor(train.schedule, step, len(shares), train.epochs)
            targets = torch.from_numpy(batch.labels).to(device)
            weights = torch.from_numpy(batch.share.weights).to(device)
            logits = forward(batch)
            losses = [objective.losses(lane, targets) * weights for lane in logits]
            # Lanes share no parameter: the gradient of the sum is each lane's own.
            total = torch.stack(losses).sum() * (1 / batch.share.total)
            torch.autograd.backward(total)
            for lane in lanes:
                _step(lane, factor)
            for tally, row, loss in zip(tallies, logits.detach(), losses, strict=True):
                tally.add(row, targets, loss.detach(), weights)
        return [tally.summary() for tally in tallies]

    yield LanesDone(0, [], validate(), [_tail(lane) for lane in lanes])
    for epoch in range(train.epochs):
        trained = train_epoch(epoch)
        yield LanesDone(epoch + 1, trained, validate(), [_tail(lane) for lane in lanes])


def _lane(model: TransferModel, plan: Plan, train: Train) -> _Lane:
    parameters = {
        name: nn.Parameter(p.detach().clone()) for name, p in model.named_tail_parameters()
    }
    return _Lane(parameters, make_optimizer(parameters, model.stages, plan, train), train)


def _step(lane: _Lane, factor: float) -> None:
    """Take a lane's optimiser step; every group's rate is multiplied by `factor`."""
    for group in lane.optimizer.param_groups:
        group["lr"] = group["rate"] * factor
    if lane.train.clip_norm is not None:
        nn.utils.clip_grad_norm_(lane.parameters.values(), lane.train.clip_norm)
    lane.optimizer.step()
    lane.optimizer.zero_grad()


def _tail(lane: _Lane) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in lane.parameters.items()}
