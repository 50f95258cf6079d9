"""The end of a training: the chosen weights become a model version, with its lineage."""

import importlib.metadata
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from graft.backbones.timm_stages import PREFIX
from graft.backbones.trunk import TrunkChain, publish_stages, tensors_to_bytes
from graft.data.image import decode
from graft.data.loader import to_tensor
from graft.data.views import evaluation_view
from graft.registry import Lineage, ModelDraft, ModelVersion, promote, register
from graft.spec import Finetune, Register
from graft.store import Store
from graft.training.prepare_run import PreparedRun
from graft.training.run_records import Epoch

PACKAGES = ("graft", "torch", "torchvision", "ray", "numpy", "pillow")
"""Packages whose versions the lineage records."""


@dataclass(frozen=True)
class Origin:
    """What trained a model, for its lineage."""

    spec: Finetune
    """With nothing left open."""
    run: str
    """The run's id; SWEEP/NUMBER for a trial that is no run."""
    sweep: str | None = None
    """Id of the sweep, where there is one."""


def register_model(
    store: Store,
    origin: Origin,
    target: Register,
    prepared: PreparedRun,
    chain: TrunkChain,
    epoch: Epoch,
) -> ModelVersion:
    """Register a model with the weights it has now, those of `epoch`; move `target`'s alias to it.

    The model is cut at the freeze depth of that epoch. A run that registers twice gets one version.
    """
    model, manifest, spec = prepared.model, prepared.dataset.manifest, origin.spec
    packages = (*PACKAGES, "timm") if spec.backbone.arch.startswith(PREFIX) else PACKAGES
    publish_stages(store, model, chain)
    draft = ModelDraft(
        name=target.model,
        arch=spec.backbone.arch,
        head=spec.head,
        dropout=spec.backbone.dropout,
        classes=manifest.classes,
        contract=prepared.contract,
        freeze=model.depth,
        stages=chain.digests[1 : model.depth + 1],
        trunk_digest=chain.digests[model.depth],
        metrics={"train": epoch.train, "val": epoch.val},
        weights=target.weights,
        epoch=epoch.epoch,
        lineage=Lineage(
            run=origin.run,
            sweep=origin.sweep,
            dataset=manifest.name,
            dataset_version=manifest.version,
            spec=spec.model_dump(mode="json", by_alias=True),
            weights=prepared.weights.source,
            weights_sha256=prepared.weights.sha256,
            packages={name: importlib.metadata.version(name) for name in packages},
            git_commit=_git_commit(),
        ),
    )
    version = register(store, draft, tensors_to_bytes(model.tail_state()), _golden(prepared))
    if target.alias:
        promote(store, version.ref, target.alias)
    return version


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
