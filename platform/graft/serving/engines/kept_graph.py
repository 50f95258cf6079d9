"""ONNX graphs that the store keeps: a network is written once for a release of its engine.

Whether one gives what training recorded is asked by whoever runs it, on its own processor.
"""

import contextlib
import logging
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as release_of
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from graft.backbones.trunk import load_model
from graft.errors import ObjectExists, ResourceError, ServingError, StoreDenied
from graft.registry import ModelVersion
from graft.serving.engines.description import Network
from graft.serving.engines.forms import write_onnx
from graft.spec import Digest, Section
from graft.store import Marker, ObjectRef, Store, document_bytes
from graft.store.documents import find_document

logger = logging.getLogger(__name__)


class KeptGraph(Section, Marker):
    """Marker ``exports/<trunk digest>/<tail's SHA-256>/<engine>.json`` of a network's graph.

    That of its trunk alone is in the folder ``trunk``.
    """

    trunk_digest: Digest
    tail: Digest | None
    """null: of the trunk."""
    graph: ObjectRef

    @property
    def folder(self) -> str:
        """See `Marker`."""
        return f"exports/{self.trunk_digest}/{self.tail or 'trunk'}"


def onnx_graph(store: Store, version: ModelVersion, trunk_only: bool = False) -> bytes:
    """Return the ONNX graph of a version, or of its trunk; it is written if the store has none.

    Raises:
        ResourceError: what writes it is not installed.
        ServingError: it cannot be written.
        StoreError: a payload is missing or damaged.
    """
    tail = None if trunk_only else version.tail.sha256
    folder = f"exports/{version.trunk_digest}/{tail or 'trunk'}"
    key = f"{folder}/{_engine()}.json"
    kept = find_document(store, key, KeptGraph)
    if kept is None:
        with TemporaryDirectory(prefix="graft-graph-") as scratch:
            path = Path(scratch, "model.onnx")
            _write_elsewhere(store, version, path, trunk_only)
            try:
                kept = KeptGraph(
                    trunk_digest=version.trunk_digest,
                    tail=tail,
                    graph=store.put(folder, "graph.onnx", path),
                )
                with contextlib.suppress(ObjectExists):  # another process was first
                    store.create(key, document_bytes(kept))
            except StoreDenied as error:
                logger.warning(f"{version.ref}: its ONNX graph is for this process alone: {error}")
                return path.read_bytes()
    return store.get_shared(folder, kept.graph)


def _engine() -> str:
    """Return what runs a graph and what writes it, with their releases.

    Raises:
        ResourceError: one of them is not installed.
    """
    try:
        releases = {name: release_of(name) for name in ("onnxruntime", "onnxscript", "torch")}
    except PackageNotFoundError as error:
        raise ResourceError(
            f"ONNX needs {error.name}, which is not installed: pip install 'graft-vision[onnx]'"
        ) from error
    return "-".join(f"{name}-{release.partition('+')[0]}" for name, release in releases.items())


def _write_elsewhere(store: Store, version: ModelVersion, path: Path, trunk_only: bool) -> None:
    """Write a graph in a process that ends: tracing takes memory, and answers would wait for it.

    Raises:
        ResourceError, ServingError: it cannot be written.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            pool.submit(_write, store.uri, version, path, trunk_only).result()
        except BrokenProcessPool as error:
            raise ServingError(
                f"the process that wrote {version.ref} as ONNX was killed; it may have had too "
                "little memory"
            ) from error


def _write(store_uri: str, version: ModelVersion, path: Path, trunk_only: bool) -> None:
    model = load_model(Store.open(store_uri), version)
    write_onnx(model, Network.of(version), path, trunk_only)
