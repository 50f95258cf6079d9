"""Backbone weights: resolved from a spec, put into the store by their SHA-256, and loaded.

`backbone.weights` says where they come from, which matters once, when a run is prepared;
workers read them from the store.
"""

import contextlib
import http.client
import io
import re
import ssl
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TypeGuard

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from graft.backbones.fit_weights import fit
from graft.backbones.published_weights import PublishedWeights, file_preprocess, find_published
from graft.backbones.transfer_model import TransferModel
from graft.backbones.trunk import version_state
from graft.errors import ObjectExists, ObjectNotFound, WeightsError, WeightsLost
from graft.registry import ModelVersion, get_model
from graft.spec import Backbone, Preprocess
from graft.store import (
    ObjectRef,
    SourceBucket,
    Store,
    bucket_and_key,
    document_bytes,
    find_document,
    read_document,
    sha256,
)
from graft.store.index import indexed_rows

Check = Callable[[Mapping[str, Tensor], str, Preprocess], object]
"""Refuses tensors of a file, given its name and what its weights were trained with, before the file
goes into the store."""

DOWNLOAD_TIMEOUT_S = 10
BUSY = (408, 425, 429)
"""Status codes below 500 with which a server asks for patience."""
MODEL_SCHEME = "model://"
LARGEST_BYTES = 64 << 30
"""A larger file in a bucket is refused unread: no network that is fine-tuned has as many."""


class WeightsRecord(BaseModel):
    """The marker ``weights/<sha256>/weights.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """timm/NAME.TAG/FILE, or the file's name."""
    file: ObjectRef


@dataclass(frozen=True)
class Weights:
    """Resolved weights: random, a file in the store, or a model version's."""

    source: str
    """`none`, a torchvision enum, timm's NAME.TAG, a path or URI, or `model://NAME@<number>`."""
    sha256: str | None = None
    """SHA-256 of the file in the store; None: random, or a model version's."""
    model: ModelVersion | None = None
    """The model version whose weights they are, if they are one's."""
    preprocess: Preprocess = field(default_factory=Preprocess)
    """What the weights were trained with; where that is not known, ImageNet's usual."""


def resolve_weights(
    store: Store,
    backbone: Backbone,
    check: Check = lambda state, source, preprocess: None,
) -> Weights:
    """Return the weights that a spec asks for; their file is in the store afterwards.

    A file that is refused, also by `check`, is not put there.

    Raises:
        SpecError: no such weights are published.
        WeightsError: they cannot be read or downloaded, have another SHA-256 than promised, or
            are no tensors.
        NotFoundError: no such model version.
    """
    source = backbone.weights
    if source == "none":
        return Weights(source)
    if source.startswith(MODEL_SCHEME):
        version = get_model(store, source.removeprefix(MODEL_SCHEME))
        if version.arch != backbone.arch:
            raise WeightsError(
                f"backbone.weights: {version.ref} is a {version.arch}, "
                f"backbone.arch asks for {backbone.arch}"
            )
        inherited = Preprocess(**version.contract.model_dump(exclude={"max_side"}))
        return Weights(f"{MODEL_SCHEME}{version.ref}", model=version, preprocess=inherited)
    published, pinned = find_published(backbone.arch, source), backbone.weights_sha256
    if published:
        source, preprocess = published.name, published.preprocess
    else:
        preprocess = file_preprocess(backbone.arch)
    if pinned and _has(store, pinned):
        return Weights(source, sha256=pinned, preprocess=preprocess)
    data, digest = None, _find_stored(store, published) if published else None
    if digest is None:
        data = _obtain(published) if published else _read(source)
        digest = sha256(data)
    if pinned not in (None, digest):
        raise WeightsError(
            f"backbone.weights: {source} has SHA-256 {digest}, "
            f"backbone.weights_sha256 asks for {pinned}"
        )
    if data is not None:
        name = published.recorded_source if published else PurePosixPath(source).name
        check(_parse(data, name), source, preprocess)
        _store_file(store, digest, data, name)
    return Weights(source, sha256=digest, preprocess=preprocess)


def load_weights(store: Store, weights: Weights, model: TransferModel, keep_head: bool) -> None:
    """Load resolved weights into a model; without `keep_head` its head stays random.

    Raises:
        WeightsError: names or shapes differ, other than those of a replaced head; all are listed.
    """
    if weights.model:
        state = version_state(store, weights.model)
    elif weights.sha256:
        record = read_document(store, _marker(weights.sha256), WeightsRecord)
        data = store.get_shared(f"weights/{weights.sha256}", record.file)
        state = _parse(data, record.source)
    else:
        return
    fit(model, state, keep_head, weights.source)


def load_file(source: str, model: TransferModel) -> None:
    """Load a weights file, a path or s3:// URI, into a model; its head stays random.

    Raises:
        WeightsError: no such file, no tensors in it, or they do not fit.
    """
    fit(model, _parse(_read(source), source), False, source)


def _marker(digest: str) -> str:
    return f"weights/{digest}/weights.json"


def _has(store: Store, digest: str) -> bool:
    """Whether a weights file is in the store, where it then stays for what is to name it."""
    store.rely_on([f"weights/{digest}/"])
    return store.exists(_marker(digest))


def _read(source: str) -> bytes:
    try:
        if source.startswith("s3://"):
            bucket, key = bucket_and_key(source)
            return SourceBucket(bucket).read(key, LARGEST_BYTES).data
        path = Path(source).expanduser()
        if not path.is_file():  # reading a pipe may wait for ever
            if path.exists():
                raise WeightsError(f"backbone.weights: {source} is a folder or no regular file")
            raise FileNotFoundError(source)
        return path.read_bytes()
    except (ObjectNotFound, FileNotFoundError) as error:
        raise WeightsError(
            f"backbone.weights: no file {source}; expected `imagenet`, `none`, a torchvision "
            "enum, timm's NAME.TAG, a path, an s3:// URI or model://NAME@VERSION"
        ) from error
    except OSError as error:
        raise WeightsError(f"backbone.weights: cannot read {source}: {error.strerror}") from error


def _store_file(store: Store, digest: str, data: bytes, source: str) -> None:
    """Put a weights file into the store by its SHA-256."""
    suffix = PurePosixPath(source).suffix or ".pth"
    if not _has(store, digest):
        file = store.put(f"weights/{digest}", f"weights{suffix}", data)
        record = WeightsRecord(source=source, file=file)
        with contextlib.suppress(ObjectExists):
            store.create(_marker(digest), document_bytes(record))


def _parse(data: bytes, source: str) -> dict[str, Tensor]:
    """Return the tensors in a .safetensors or .pth file; anything else in it is refused."""
    if source.endswith(".safetensors"):
        try:
            state = load_safetensors(data)
        except SafetensorError as error:
            raise WeightsError(f"{source} is no .safetensors file, or damaged: {error}") from error
    else:
        try:
            with warnings.catch_warnings():  # torch's own, about details of the file
                warnings.simplefilter("ignore")
                state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # whatever unpickling raises on bytes that are no weights
            # Not torch's own message, which advises to load the file all the same.
            if code := re.search(r"GLOBAL (\S+)", str(error)):
                reason = f"more than plain tensors ({code[1]}); save model.state_dict() instead"
            elif "TorchScript" in str(error):
                reason = "a TorchScript program; save torch.jit.load(FILE).state_dict() instead"
            else:
                reason = "no file of torch.save, or damaged"
            raise WeightsError(f"{source} is {reason}") from error
    if not _is_state(state):
        content = ", ".join(map(str, list(state)[:5])) if isinstance(state, dict) else type(state)
        places = [f"at checkpoint{place}" for place in _places_of_states(state)]
        advice = f"; there is one {' and '.join(places)}: save that alone" if places else ""
        raise WeightsError(
            f"{source}: expected a mapping from parameter names to tensors, found {content}{advice}"
        )
    if odd := [name for name, value in state.items() if value.is_meta or value.is_sparse]:
        raise WeightsError(
            f"{source}: {odd[0]} has no numbers of its own (it is sparse, or on the meta device); "
            "save tensors that are dense"
        )
    return state


def _is_state(content: object) -> TypeGuard[dict[str, Tensor]]:
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def _places_of_states(content: object, place: str = "") -> list[str]:
    """Return where training code has put mappings of tensors into a checkpoint, as Python."""
    if place and _is_state(content) and content:
        return [place]
    if not isinstance(content, dict) or place.count("[") == 3:
        return []
    inner = (_places_of_states(value, f"{place}[{name!r}]") for name, value in content.items())
    return list(chain.from_iterable(inner))


def _find_stored(store: Store, published: PublishedWeights) -> str | None:
    """Return the SHA-256 of published weights whose file is in the store."""
    digests = [d for d in store.children("weights/") if d.startswith(published.sha256_start)]
    if published.sha256_start:
        return next((digest for digest in digests if _has(store, digest)), None)
    records = indexed_rows(
        store,
        "weights/index.json",
        WeightsRecord,
        digests,
        lambda digest: find_document(store, _marker(digest), WeightsRecord),
    )
    named = (d for d, record in records.items() if record.source == published.recorded_source)
    return next((digest for digest in named if _has(store, digest)), None)


def _obtain(published: PublishedWeights) -> bytes:
    """Return a published file from the library's own cache, else from the network, checked."""
    data = published.cached.read_bytes() if published.cached else _download(published)
    if not sha256(data).startswith(published.sha256_start):
        damage = f"its SHA-256 does not begin with {published.sha256_start}"
        if published.cached:
            raise WeightsError(f"{published.cached} is damaged: {damage}; remove it")
        raise WeightsLost(f"what {published.url} gave is damaged: {damage}; try again later")
    return data


def _download(published: PublishedWeights) -> bytes:
    """Download a published file; an error says where to get it and where it may be put."""
    url = published.url
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as answer:  # noqa: S310
            data: bytes = answer.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        status = None
        if isinstance(error, urllib.error.HTTPError):
            status = error.code
            error.close()  # it is the answer, too
        refused = status is not None and status < 500 and status not in BUSY
        refused |= isinstance(reason, ssl.SSLCertVerificationError)
        kind, later = (WeightsError, "") if refused else (WeightsLost, "try again later, or ")
        raise kind(
            f"backbone.weights: {published.file} is not in the store and cannot be downloaded "
            f"({reason}); {later}fetch {url} elsewhere and {published.cache_advice}, or name your "
            "copy: --set backbone.weights=PATH"
        ) from error
    return data
