"""The end of a training: the chosen weights become a model version, with its lineage."""

import importlib.metadata
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from graft import __version__
from graft.backbones.timm_stages import PREFIX
from graft.backbones.trunk import TrunkChain, publish_stages, tensors_to_bytes
from graft.data.image import decode
from graft.data.loader import to_tensor
from graft.data.views import evaluation_view
from graft.errors import InputError, ObjectDamaged, StoreDenied, StoreError
from graft.registry import (
    Fence,
    Lineage,
    ModelDraft,
    ModelVersion,
    Mover,
    promote_new,
    register,
)
from graft.spec import Finetune, Register
from graft.store import Store
from graft.store.retries import persist
from graft.training.prepare_run import PreparedRun
from graft.training.run_records import Epoch

Say = Callable[[str], object]
"""Shows a line to whoever started the training."""
PACKAGES = ("torch", "torchvision", "ray", "numpy", "pillow")
"""Packages whose versions the lineage records, beside Graft's own."""


@dataclass(frozen=True)
class Origin:
    """What trained a model, for its lineage."""

    spec: Finetune
    """With nothing left open."""
    run: str
    """The run's id; SWEEP/NUMBER for a trial that is no run."""
    sweep: str | None = None
    """Id of the sweep, where there is one."""


@dataclass(frozen=True)
class TrainedModel:
    """A model with trained weights, ready to be registered."""

    origin: Origin
    prepared: PreparedRun
    """With the model, which has those weights and is cut at the freeze depth of `epoch`."""
    chain: TrunkChain
    epoch: Epoch
    """The one that the weights are from."""


@dataclass(frozen=True)
class Publishing:
    """Who publishes a model, and under which conditions."""

    mover: Mover
    """Who moves its alias."""
    fence: Fence
    """Raises RunFailed once a newer attempt has taken over what trained it."""
    say: Say


def register_model(
    store: Store, trained: TrainedModel, target: Register, publishing: Publishing
) -> ModelVersion:
    """Register a trained model, and move `target`'s alias to it.

    A run that registers twice gets one version, and moves its alias once: what an attempt could
    not do any more, because it died or the store did not answer, the next one does. An alias that
    may not move is said to stay.

    Raises:
        RunFailed: overtaken by a newer attempt; then nothing is registered, and no alias moves.
        StoreError: the store fails; another attempt goes on from there.
    """
    publish_stages(store, trained.prepared.model, trained.chain)
    tail = tensors_to_bytes(trained.prepared.model.tail_state())
    golden = _golden(trained.prepared)
    draft = _draft(trained, target)
    made: list[ModelVersion] = []
    version = register(store, draft, tail, golden, publishing.fence, made.append)
    if alias := target.alias:
        for line in persist(lambda: _move_alias(store, version, alias, publishing, not made)):
            publishing.say(line)
    return version


def _move_alias(
    store: Store, version: ModelVersion, alias: str, publishing: Publishing, resumed: bool
) -> list[str]:
    """Move an alias as `promote_new` does; return what is to be said of it, a line each.

    That it may not move is said; that the store fails is an error, since it may not fail again.
    """
    try:
        return promote_new(store, version, alias, publishing.mover, publishing.fence, resumed)
    except InputError as error:
        if isinstance(error, StoreError) and not isinstance(error, StoreDenied | ObjectDamaged):
            raise
        return [f"{alias} stays where it is: {error}"]


def _draft(trained: TrainedModel, target: Register) -> ModelDraft:
    """Return all that the registry is told of a model but its weights."""
    spec, prepared, chain = trained.origin.spec, trained.prepared, trained.chain
    model, manifest = prepared.model, prepared.dataset.manifest
    packages = (*PACKAGES, "timm") if spec.backbone.arch.startswith(PREFIX) else PACKAGES
    return ModelDraft(
        name=target.model,
        arch=spec.backbone.arch,
        head=spec.head,
        dropout=spec.backbone.dropout,
        classes=manifest.classes,
        contract=prepared.contract,
        freeze=model.depth,
        stages=chain.digests[1 : model.depth + 1],
        trunk_digest=chain.digests[model.depth],
        metrics={"train": trained.epoch.train, "val": trained.epoch.val},
        weights=target.weights,
        epoch=trained.epoch.epoch,
        lineage=Lineage(
            run=trained.origin.run,
            sweep=trained.origin.sweep,
            dataset=manifest.name,
            dataset_version=manifest.version,
            spec=spec.model_dump(mode="json", by_alias=True),
            weights=prepared.weights.source,
            weights_sha256=prepared.weights.sha256,
            packages={"graft": __version__}
            | {name: importlib.metadata.version(name) for name in packages},
            git_commit=_git_commit(),
        ),
    )


@torch.no_grad()
def _golden(prepared: PreparedRun) -> bytes:
    """Return the bytes of the golden images and the model's logits for them, as safetensors.

    The logits (n, C) float32 are computed from the bytes, as serving does.
    """
    model, contract = prepared.model.eval(), prepared.contract
    originals = [data for _, data in prepared.dataset.originals()]
    views = [evaluation_view(decode(data, contract.max_side), contract) for data in originals]
    device = next(model.network.parameters()).device
    logits = model(to_tensor(np.stack(views), contract, device)).float().cpu()
    images = {
        f"image.{i}": torch.frombuffer(bytearray(data), dtype=torch.uint8)
        for i, data in enumerate(originals)
    }
    return tensors_to_bytes(images | {"logits": logits})


def _git_commit() -> str | None:
    """Return the commit of the checkout that the code runs from; None where it is in none."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
