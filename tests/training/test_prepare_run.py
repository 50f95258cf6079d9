"""What is read from the store to prepare runs and trials."""

from pathlib import Path

import pytest
import torch

from colours import colour_spec
from graft.backbones.verify_architecture import random_model
from graft.data.importing import import_dataset
from graft.errors import WeightsError
from graft.store import Store
from graft.training.prepare_run import Resolver, assemble

ARCH = "timm/test_resnet"


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.save(random_model(ARCH).network.state_dict(), tmp_path / "pretrained.pth")
    return str(tmp_path / "pretrained.pth")


@pytest.mark.slow  # three CPU seconds
def test_weights_and_index_travel_once_to_a_node(
    colour_images: Path, s3_store_uri: str, weights: str
) -> None:
    store = Store.open(s3_store_uri)
    import_dataset(store, str(colour_images), "colours")
    asked = colour_spec(backbone__arch=ARCH, backbone__weights=weights)
    recorded = Resolver(store).resolve(asked)
    expected = assemble(store, recorded).model.network.state_dict()
    for folder in ("weights/", "datasets/"):
        for key, size in list(store.scan(folder)):
            if not key.endswith((".json", "latest")):
                assert size > 1000
                store.delete(key)
    # As another process of the node would, for another trial.
    trial = colour_spec(
        backbone__arch=ARCH, backbone__weights=weights, train__rates={"kind": "decay"}
    )
    resolved = Resolver(store).resolve(trial)
    prepared = assemble(store, resolved)
    assert prepared.dataset.images("train")
    state = prepared.model.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in expected.items())


def test_a_resolver_reads_weights_once_for_trials_that_share_them(
    colour_store: Store, weights: str
) -> None:
    resolver = Resolver(colour_store)
    recorded = resolver.resolve(colour_spec(backbone__arch=ARCH, backbone__weights=weights))
    (payload,) = [key for key, _ in colour_store.scan("weights/") if key.endswith(".pth")]
    colour_store.delete(payload)
    digest = recorded.backbone.weights_sha256
    changes = {
        "train__rates": {"kind": "decay"},
        "augment": {"kind": "none"},
        "dataset": {"name": "colours", "labels": 0.5, "labels_seed": 3},
    }
    for name, value in changes.items():
        trial = colour_spec(
            backbone__arch=ARCH,
            backbone__weights=weights,
            backbone__weights_sha256=digest,
            **{name: value},
        )
        assert resolver.resolve(trial).backbone == recorded.backbone


def test_weights_that_do_not_fit_one_head_are_read_for_each_architecture(
    colour_store: Store, weights: str
) -> None:
    resolver = Resolver(colour_store)
    resolver.resolve(colour_spec(backbone__arch=ARCH, backbone__weights=weights))
    with pytest.raises(WeightsError, match="does not fit"):
        resolver.resolve(colour_spec(backbone__arch="resnet18", backbone__weights=weights))
