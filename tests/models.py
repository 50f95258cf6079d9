"""A real model with random weights, registered as training registers one."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save

from graft.backbones.transfer_model import build
from graft.backbones.trunk import publish_stages, tensors_to_bytes, trunk_chain
from graft.backbones.weights import load_file
from graft.data.image import decode
from graft.data.loader import to_tensor
from graft.data.views import evaluation_view
from graft.registry import Lineage, ModelDraft, ModelVersion, register
from graft.spec import Backbone, Contract, LinearHead
from graft.store import Store

CLASSES = ("ants", "bees", "wasps")


def picture(seed: int, side: int = 90) -> Image.Image:
    """A few smooth blobs: small files, and different logits for different seeds."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(noise).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def register_model(
    store: Store,
    name: str = "ants-bees",
    run: str = "run-1",
    golden_shift: float = 0.0,
    seed: int = 0,
    classes: tuple[str, ...] = CLASSES,
    dataset_version: str = "v1",
    arch: str = "squeezenet1_1",
    dead: bool = False,
    freeze: int | str = -2,
    crop: int = 64,
    trunk_seed: int | None = None,
    contract: Contract | None = None,
    weights: Path | None = None,
) -> ModelVersion:
    """Register a model with random weights; `golden_shift` falsifies the recorded logits.

    With `dead`, every logit is 0: SqueezeNet ends with a ReLU. Versions of one `trunk_seed` begin
    with the same weights, as far as they are frozen. A `contract` comes before `crop`; with
    `weights`, a file, all but the head is not random.
    """
    backbone = Backbone(arch=arch, weights="none", freeze=freeze)
    torch.manual_seed(seed)
    contract = contract or Contract(resize=crop + 8, crop=crop, max_side=crop + 16)
    model = build(backbone, LinearHead(), len(classes), contract.crop).eval()
    if weights:
        load_file(str(weights), model)
    if trunk_seed is not None:
        torch.manual_seed(trunk_seed)
        frozen = build(backbone, LinearHead(), 2, contract.crop)
        for index in range(frozen.depth):
            model.load_some(frozen.stage_state(index))
        model = model.cut(model.depth).eval()
    if dead:
        model.network.get_parameter(f"{model.stages.last}.bias").data.fill_(-1e6)
    chain = trunk_chain(model, contract)
    publish_stages(store, model, chain)
    files = [encoded(picture(seed)) for seed in range(3)]
    views = np.stack([evaluation_view(decode(data, contract.max_side), contract) for data in files])
    with torch.inference_mode():
        logits = model(to_tensor(views, contract)).numpy()
    golden = {f"image.{i}": np.frombuffer(data, np.uint8) for i, data in enumerate(files)}
    golden["logits"] = logits + np.float32(golden_shift)
    draft = ModelDraft(
        name=name,
        arch=backbone.arch,
        head=LinearHead(),
        dropout=None,
        classes=classes,
        contract=contract,
        freeze=model.depth,
        stages=chain.digests[1:],
        trunk_digest=chain.digests[-1],
        metrics={"val": {"accuracy": 0.5, "loss": 0.7}},
        weights="last",
        epoch=0,
        lineage=Lineage(
            run=run,
            dataset=name,
            dataset_version=dataset_version,
            spec={"kind": "finetune"},
            weights="none",
            weights_sha256=None,
            packages={},
            git_commit=None,
        ),
    )
    return register(store, draft, tensors_to_bytes(model.tail_state()), save(golden))
