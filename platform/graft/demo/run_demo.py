"""The demo, step by step: pretrain, transfer, compare, serve, ask."""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from graft.data.importing import import_dataset
from graft.data.manifest import open_dataset
from graft.demo.images import LabelledImage, render_characters, write_digits
from graft.errors import ServingError
from graft.registry import CHAMPION, Mover, get_model, promote
from graft.serving.deployment import serve_model
from graft.spec import Finetune, parse_job
from graft.store import Store
from graft.training.events import Event
from graft.training.prepare_run import resolve
from graft.training.ray_train import run_finetune
from graft.training.run_records import Result, create_run

CHARACTERS_PER_CLASS = 60
TRAIN_PER_CLASS = 15
VAL_PER_CLASS = 30
QUESTIONS = 300
"""How many held-out digits the served model is asked about."""
ARCH = "resnet18"
PRETRAIN = {
    "epochs": 5,
    "batch_size": 64,
    "optimizer": {"kind": "adamw", "lr": 2e-3},
    "schedule": {"kind": "cosine", "warmup_epochs": 0.5},
}
TRANSFER = {
    "epochs": 5,
    "batch_size": 30,
    "optimizer": {"kind": "adamw", "lr": 5e-4},
    "schedule": {"kind": "cosine"},
}
ONE_WORKER = {"workers": 1, "cpus_per_worker": 2}
TWO_WORKERS = {"workers": 2, "cpus_per_worker": 1}


class Watch(Protocol):
    """Shows one training run while it lasts."""

    def __call__(self, run: str, spec: Finetune) -> AbstractContextManager[Callable[[Event], None]]:
        """Return a context; it gives the function to call with the run's events."""


@dataclass(frozen=True)
class DemoRun:
    """One run of the demo."""

    name: str
    model: str
    """NAME@VERSION."""
    images: int
    """Labelled images trained on."""
    epochs: int
    seconds: float
    accuracy: float
    """Accuracy on validation images."""


@dataclass(frozen=True)
class DemoResult:
    """The three runs of the demo, and how the served model answered."""

    pretraining: DemoRun
    pretrained: DemoRun
    scratch: DemoRun
    served: str
    """NAME@VERSION of the better one: `pretrained` or `scratch`."""
    asked: int
    """Held-out images sent over HTTP."""
    right: int
    requests_per_second: float
    seconds: float

    def document(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)


def run_demo(
    store: Store, say: Callable[[str], None], watch: Watch, mover: Mover | None = None
) -> DemoResult:
    """Run the whole demo on the connected Ray, and leave what it makes in `store`.

    `say` is called with a line of text at each step; `mover` is who moves aliases, by default this
    machine's user.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="graft-demo-") as temporary:
        folder = Path(temporary)
        say("1. Render letters and figures, and import them")
        count = render_characters(folder / "characters", CHARACTERS_PER_CLASS)
        characters = import_dataset(
            store, str(folder / "characters"), "demo-characters", test_fraction=0
        )
        say(f"   {count} images of {len(characters.manifest.classes)} classes")

        say("2. Train a backbone on them, from random weights")
        spec = _spec("demo-characters", "none", PRETRAIN, ONE_WORKER)
        pretraining = _train(store, "letters and figures", spec, watch, mover)

        say("3. Import real handwritten digits, few of them labelled")
        held_out = write_digits(
            folder / "digits", folder / "held-out", TRAIN_PER_CLASS, VAL_PER_CLASS
        )
        import_dataset(store, str(folder / "digits"), "demo-digits", test_fraction=0)
        say(f"   {TRAIN_PER_CLASS} per class to train on, {VAL_PER_CLASS} to validate with")

        say("4. Transfer: the same run from the backbone, and from random weights")
        runs = [
            _train(store, name, _spec("demo-digits", weights, TRANSFER, TWO_WORKERS), watch, mover)
            for name, weights in (
                ("pretrained", f"model://{pretraining.model}"),
                ("from scratch", "none"),
            )
        ]
        better = max(runs, key=lambda run: run.accuracy)
        promote(store, better.model, CHAMPION, mover)

        say(
            f"5. Serve the better one, {better.model}, and ask it about {QUESTIONS} held-out digits"
        )
        questions = held_out[:QUESTIONS]
        with serve_model(store, get_model(store, f"demo-digits@{CHAMPION}"), port=0) as url:
            began = time.monotonic()
            right = _ask(url, questions)
            rate = len(questions) / (time.monotonic() - began)
    return DemoResult(
        pretraining=pretraining,
        pretrained=runs[0],
        scratch=runs[1],
        served=better.model,
        asked=len(questions),
        right=right,
        requests_per_second=round(rate, 1),
        seconds=round(time.monotonic() - start, 1),
    )


def _spec(dataset: str, weights: str, train: dict[str, Any], scaling: dict[str, int]) -> Finetune:
    document = {
        "kind": "finetune",
        "name": dataset,
        "dataset": {"name": dataset},
        "backbone": {"arch": ARCH, "weights": weights, "freeze": 0},
        "preprocess": {"resize": 32, "crop": 32},
        "augment": {"kind": "standard", "scale": [0.7, 1.0], "flip": 0.0},
        "train": train,
        "scaling": scaling,
        "register": {"model": dataset, "alias": "candidate"},
    }
    return parse_job(document, "demo")


def _train(store: Store, name: str, spec: Finetune, watch: Watch, mover: Mover | None) -> DemoRun:
    recorded = resolve(store, spec)
    run = create_run(store, recorded)
    with watch(run, recorded) as show:
        result: Result = run_finetune(store, run, show, mover)
    dataset = open_dataset(store, recorded.dataset.name, recorded.dataset.version)
    return DemoRun(
        name=name,
        model=str(result.model),
        images=len(dataset.images("train")),
        epochs=spec.train.epochs,
        seconds=result.seconds,
        accuracy=result.metrics["val"]["accuracy"],
    )


def _ask(url: str, questions: list[LabelledImage]) -> int:
    """Send every image over HTTP, eight at a time; return how many answers are right."""
    address = "/v1/models/demo-digits/predict"
    with httpx.Client(base_url=url, timeout=30) as client:

        def ask(image: LabelledImage) -> bool:
            answer = client.post(address, params={"top_k": 1}, content=image.path.read_bytes())
            if not answer.is_success:
                raise ServingError(f"{url} answered {answer.status_code}: {answer.text}")
            return bool(answer.json()["predictions"][0]["class"] == image.label)

        with ThreadPoolExecutor(8) as pool:
            return sum(pool.map(ask, questions))
