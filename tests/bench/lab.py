"""What the benches of serving measure: models in a store, their exports, and a photograph."""

import io
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))

from graft.registry import CHAMPION, ModelVersion, promote
from graft.serving.engines.description import FormName
from graft.serving.engines.export import export_version
from graft.spec import Contract
from graft.store import Store
from models import register_model

SHARED = Path(__file__).parents[3] / "shared" / "data"
CLASSES = tuple(f"class-{number}" for number in range(10))
CONTRACT = Contract(max_side=512)
SIZE = (500, 375)
"""Of the photograph, in pixels: the usual one of ImageNet's files."""


@dataclass(frozen=True)
class Lab:
    """A model that is served, and what asks it."""

    folder: Path
    arch: str
    version: ModelVersion
    weights: str
    """Whose they are, in words."""

    @property
    def store(self) -> Store:
        return Store.open(str(self.folder / "store"))

    @property
    def name(self) -> str:
        return self.version.name

    @cached_property
    def photograph(self) -> Path:
        path = self.folder / "photograph.jpg"
        path.write_bytes(photograph())
        return path

    def exported(self, form: FormName) -> Path:
        """Return the version as `graft models export` writes it."""
        path = self.folder / f"{self.name}.{form}"
        if not path.exists():
            export_version(self.store, self.version, form, path)
        return path


def make_lab(folder: Path, arch: str, versions: int = 1) -> Lab:
    """Register so many versions of an architecture, with real weights where they are at hand."""
    store = Store.open(str(folder / "store"))
    file = SHARED / "weights" / f"{arch}-imagenet.safetensors"
    weights = file if file.is_file() else None
    name = arch.replace("_", "-")
    registered = [
        register_model(
            store,
            name,
            run=f"run-{seed}",
            seed=seed,
            classes=CLASSES,
            arch=arch,
            contract=CONTRACT,
            weights=weights,
        )
        for seed in range(versions)
    ]
    promote(store, registered[0].ref, CHAMPION)
    return Lab(folder, arch, registered[0], "ImageNet's weights" if weights else "random weights")


def photograph() -> bytes:
    """Return a JPEG of `SIZE`: of ants-bees where it is at hand, else one about as detailed."""
    for path in sorted((SHARED / "ants-bees").rglob("*.jpg")):
        with Image.open(path) as image:
            if image.size == SIZE:
                return path.read_bytes()
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), np.int16)
    noise = random.integers(-12, 13, smooth.shape, dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()
