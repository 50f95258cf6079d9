"""Whether `graft backbones rank` says what training says: real images, and weights good and bad."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import commands

SHARED = Path(__file__).parents[4] / "shared" / "data"
ARCH = "squeezenet1_1"


@pytest.mark.nightly  # three networks over 397 images, at their published size
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_the_order_is_that_of_trained_heads_and_random_weights_come_last(tmp_path: Path) -> None:
    def graft(*arguments: str) -> Any:
        done = commands.graft(*arguments, "--store", "store", "--json", cwd=tmp_path, timeout=800)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    graft(
        "data", "import", str(SHARED / "ants-bees"), "--name", "ants-bees", "--test-fraction", "0"
    )
    imagenet = SHARED / "weights" / f"{ARCH}-imagenet.safetensors"
    state = load_file(imagenet)
    torch.manual_seed(0)
    for name, tensor in state.items():
        if name.startswith(("features.11.", "features.12.")):  # fire8 and fire9, all in disorder
            state[name] = tensor.flatten()[torch.randperm(tensor.numel())].reshape(tensor.shape)
    save_file(state, tmp_path / "disordered.safetensors")

    weights = ["none", "disordered.safetensors", str(imagenet)]
    named = [word for source in weights for word in ("--arch", ARCH, "--weights", source)]
    ranked = graft("backbones", "rank", "ants-bees", *named)["backbones"]
    trained = {}
    for candidate in ranked:
        spec = f"""
            kind: finetune
            name: head
            dataset: {{name: ants-bees}}
            backbone: {{arch: {ARCH}, weights: '{candidate["weights"]}'}}
            augment: {{kind: none}}
            train: {{epochs: 8, batch_size: 16, optimizer: {{kind: sgd, lr: 1e-3}}}}
            register: null
        """
        (tmp_path / "head.yaml").write_text(spec)
        trained[candidate["weights"]] = graft("train", "head.yaml")["metrics"]["val"]["accuracy"]
    order = [candidate["weights"] for candidate in ranked]
    assert order[-1] == "none"
    assert order == sorted(trained, key=trained.__getitem__, reverse=True), (ranked, trained)
    evidence = [candidate["logme"] for candidate in ranked]
    assert evidence == sorted(evidence, reverse=True)
