"""The trunk digest, a hash chain over the frozen stages, and those stages' weights in the store.

    c[0] = H(preprocessing contract, stage map and its version, architecture)
    c[k] = H(c[k-1], the hash of every parameter and buffer of stage k-1, whether it ends flat)

`c[depth]` is the trunk digest. A stage ends flat when its activations are pooled already.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from graft.backbones.stage_map import STAGE_MAP_VERSION
from graft.backbones.transfer_model import TransferModel, build
from graft.errors import ObjectExists, WeightsError
from graft.registry import ModelVersion
from graft.spec import Backbone, Contract, Digest
from graft.store import ObjectRef, Store, document_bytes, read_document


class StageRecord(BaseModel):
    """The marker ``stages/<digest>/stage.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: str
    stage: str
    previous: Digest
    """Digest of the chain before this stage."""
    weights: ObjectRef


@dataclass(frozen=True)
class TrunkChain:
    """The digests of a trunk and of all its prefixes."""

    digests: tuple[str, ...]
    """c[0] .. c[depth] in hex."""
    tensors: tuple[dict[str, str], ...]
    """By stage: the SHA-256 of every parameter and buffer, by name."""

    def first_moved(self, later: "TrunkChain") -> str | None:
        """Return the name of the first tensor that differs in `later`, which may be shorter."""
        for before, after in zip(self.tensors, later.tensors, strict=False):
            for name, digest in before.items():
                if after[name] != digest:
                    return name
        return None


def trunk_chain(model: TransferModel, contract: Contract) -> TrunkChain:
    """Return the digests of a model's frozen stages."""
    header = {
        "contract": contract.model_dump(mode="json"),
        "stage_map": STAGE_MAP_VERSION,
        "stages": model.stages.names,
        "arch": model.stages.arch,
    }
    digests = [hashlib.sha256(_canonical(header)).hexdigest()]
    states = [sorted(model.stage_state(index).items()) for index in range(model.depth)]
    tensors = tuple({name: _hash(value) for name, value in state} for state in states)
    for stage, hashes in zip(model.stages.stages, tensors, strict=False):
        link = hashlib.sha256(digests[-1].encode() + _canonical(hashes))
        if stage.flat:  # the same weights give other activations
            link.update(b"flat")
        digests.append(link.hexdigest())
    return TrunkChain(tuple(digests), tensors)


def _hash(value: Tensor) -> str:
    digest = hashlib.sha256(_canonical([str(value.dtype), list(value.shape)]))
    digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def publish_stages(store: Store, model: TransferModel, chain: TrunkChain) -> None:
    """Put the frozen stages' weights into the store, but for those that are there already."""
    store.rely_on([f"stages/{digest}/" for digest in chain.digests[1 : model.depth + 1]])
    for index in range(model.depth):
        folder = f"stages/{chain.digests[index + 1]}"
        if store.exists(f"{folder}/stage.json"):
            continue
        content = tensors_to_bytes(model.stage_state(index))
        record = StageRecord(
            arch=model.stages.arch,
            stage=model.stages.names[index],
            previous=chain.digests[index],
            weights=store.put(folder, "weights.safetensors", content),
        )
        with contextlib.suppress(ObjectExists):  # another run has just published the same stage
            store.create(f"{folder}/stage.json", document_bytes(record))


def load_stages(store: Store, digests: Sequence[str]) -> dict[str, Tensor]:
    """Return the parameters and buffers of the stages with these chain digests."""
    state: dict[str, Tensor] = {}
    for digest in digests:
        weights = _record(store, digest).weights
        state |= load_tensors(store.get_shared(f"stages/{digest}", weights))
    return state


def stage_bytes(store: Store, digests: Sequence[str]) -> int:
    """Return what the weights of the stages with these chain digests take, in bytes."""
    return sum(_record(store, digest).weights.size for digest in digests)


def _record(store: Store, digest: str) -> StageRecord:
    return read_document(store, f"stages/{digest}/stage.json", StageRecord)


def version_state(store: Store, version: ModelVersion) -> dict[str, Tensor]:
    """Return every parameter and buffer of a model version, under their published names."""
    tail = load_tensors(store.get_shared(version.folder, version.tail))
    return load_stages(store, version.stages) | tail


def load_model(store: Store, version: ModelVersion) -> TransferModel:
    """Return a model version ready to predict: weights loaded, in evaluation mode.

    Raises:
        WeightsError: the version's tensors are not those of its architecture.
    """
    backbone = Backbone(
        arch=version.arch, weights="none", freeze=version.freeze, dropout=version.dropout
    )
    model = build(backbone, version.head, len(version.classes), version.contract.crop)
    try:
        model.load(version_state(store, version))
    except RuntimeError as error:
        raise WeightsError(f"{version.ref}: {error}") from error
    return model.eval()


def tensors_to_bytes(state: Mapping[str, Tensor]) -> bytes:
    """Serialise tensors as safetensors, on the CPU and contiguous."""
    data: bytes = save_tensors({k: v.detach().cpu().contiguous() for k, v in state.items()})
    return data


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
