"""The end of a run: the chosen weights become a model version, with golden images and lineage."""

import importlib.metadata
import subprocess
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graft.backbones.model import TransferModel
from graft.backbones.timm import PREFIX
from graft.backbones.trunk import TrunkChain, publish_stages, tensors_to_bytes
from graft.data.image import decode
from graft.data.loader import to_tensor
from graft.data.views import evaluation_view
from graft.registry import Lineage, ModelDraft, ModelVersion, promote, register
from graft.spec import Finetune, Register
from graft.store import Store
from graft.training.prepare import Assembly
from graft.training.runs import Epoch

PACKAGES = ("graft", "torch", "torchvision", "ray", "numpy", "pillow")


def register_model(
    store: Store,
    run: str,
    spec: Finetune,
    target: Register,
    assembly: Assembly,
    chain: TrunkChain,
    epoch: Epoch,
    sweep: str | None = None,
) -> ModelVersion:
    """Register the assembly's model as it stands; a run that asks twice gets one version."""
    model, manifest = assembly.model, assembly.dataset.manifest
    packages = (*PACKAGES, "timm") if spec.backbone.arch.startswith(PREFIX) else PACKAGES
    publish_stages(store, model, chain)
    draft = ModelDraft(
        name=target.model,
        arch=spec.backbone.arch,
        head=spec.head,
        dropout=spec.backbone.dropout,
        classes=manifest.classes,
        contract=assembly.contract,
        freeze=model.depth,
        stages=chain.digests[1 : model.depth + 1],
        trunk_digest=chain.digests[model.depth],
        metrics={"train": epoch.train, "val": epoch.val},
        weights=target.weights,
        epoch=epoch.epoch,
        lineage=Lineage(
            run=run,
            sweep=sweep,
            dataset=manifest.name,
            dataset_version=manifest.version,
            spec=spec.model_dump(mode="json", by_alias=True),
            weights=assembly.weights.source,
            weights_sha256=assembly.weights.sha256,
            packages={name: importlib.metadata.version(name) for name in packages},
            git_commit=_git_commit(),
        ),
    )
    version = register(store, draft, tensors_to_bytes(model.tail_state()), _golden(assembly))
    if target.alias:
        promote(store, version.ref, target.alias)
    return version


def _golden(assembly: Assembly) -> bytes:
    """Return the golden images' own bytes and what the model makes of them, as safetensors."""
    originals = [data for _, data in assembly.dataset.originals()]
    logits = golden_logits(assembly.model, originals, assembly)
    tensors: dict[str, Tensor] = {
        f"image.{i}": torch.frombuffer(bytearray(data), dtype=torch.uint8)
        for i, data in enumerate(originals)
    }
    return tensors_to_bytes(tensors | {"logits": logits})


@torch.no_grad()
def golden_logits(model: TransferModel, originals: list[bytes], assembly: Assembly) -> Tensor:
    """Compute logits from image files' bytes, as serving does: (n, C) float32."""
    contract = assembly.contract
    views = [evaluation_view(decode(data, contract.max_side), contract) for data in originals]
    device = next(model.network.parameters()).device
    return model.eval()(to_tensor(np.stack(views), contract, device)).float().cpu()


def _git_commit() -> str | None:
    """Return the commit of the checkout that the code runs from, if it does."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
