"""A model version whose golden images the CPU computed."""

import numpy as np
import torch
from safetensors.numpy import save

from gpu.lab import Lab
from graft.backbones.trunk import publish_stages, tensors_to_bytes, trunk_chain
from graft.data.image import decode
from graft.data.loader import to_tensor
from graft.data.views import evaluation_view
from graft.registry import Lineage, ModelDraft, ModelVersion, register
from graft.spec import LinearHead
from graft.store import Store


def register_model(lab: Lab, store: Store) -> ModelVersion:
    """Register the lab's network with its files' logits, as training does."""
    model = lab.model(-1, smoothed=False).eval()
    chain = trunk_chain(model, lab.contract)
    publish_stages(store, model, chain)
    draft = ModelDraft(
        name="gpu",
        arch=model.stages.arch,
        head=LinearHead(),
        dropout=None,
        classes=lab.dataset.manifest.classes,
        contract=lab.contract,
        freeze=model.depth,
        stages=chain.digests[1:],
        trunk_digest=chain.digests[-1],
        metrics={},
        weights="last",
        epoch=0,
        lineage=Lineage(
            run="gpu",
            dataset=lab.dataset.manifest.name,
            dataset_version=lab.dataset.manifest.version,
            spec={},
            weights="none",
            weights_sha256=None,
            packages={},
            git_commit=None,
        ),
    )
    files = [data for _, data in lab.dataset.originals()]
    views = [evaluation_view(decode(data, lab.contract.max_side), lab.contract) for data in files]
    with torch.inference_mode():
        logits = model(to_tensor(np.stack(views), lab.contract)).numpy()
    golden = {f"image.{i}": np.frombuffer(data, np.uint8) for i, data in enumerate(files)}
    content = save(golden | {"logits": logits})
    return register(store, draft, tensors_to_bytes(model.tail_state()), content)
