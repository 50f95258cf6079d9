"""The actor in which Tune trains one trial after another.

An epoch is a step. What a trial comes to travels as JSON in each result; an error of a trial
does too, so that Tune itself has nothing to report, and the sweep goes on.
"""

import json
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import torch
from pydantic import JsonValue
from ray import tune

from graft.backbones.memory import keep_freed_memory
from graft.errors import GraftError, ResourceError, StoreError
from graft.spec import Scaling, trial_spec
from graft.store import Store
from graft.sweep.plan import Trial
from graft.sweep.results import TrialEpoch, trial_epochs
from graft.sweep.space import Changes
from graft.sweep.trial import Bench, Compared, Progress, one_process, train_together, train_trial
from graft.training.attempt import repeat_exactly
from graft.training.checkpoint import latest_checkpoint, state_from_bytes, state_to_bytes
from graft.training.events import Validated
from graft.training.loop import TrainingState
from graft.training.runs import create_run
from graft.training.worker import run_finetune

POINT = "point"
"""What of Tune's config is a trial: its number, itself as JSON, and the values that may change."""
STATE, PROGRESS = "state.safetensors", "progress.json"
"""Files that a paused trial is kept in."""
WORST = 1e9
"""What a trial without a finite number counts as, to a scheduler."""


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """Trains one trial after another; a step is an epoch."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        uri: str,
        sweep_id: str,
        compared: Compared,
        mutates: bool,
        sharing: int,
    ) -> None:
        """Get ready for the first trial."""
        self._store = Store.open(uri)
        self._compared = compared
        self._mutates, self._sharing = mutates, sharing
        self._sweep_id = sweep_id
        keep_freed_memory()
        self._bench: Bench | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take on another trial."""
        point = new_config[POINT]
        self._trial = Trial.model_validate_json(point["trial"])
        self._values: Changes = point["values"]
        self._start: TrainingState | None = None
        self._state: TrainingState | None = None
        self._steps: Iterator[tuple[dict[str, Any], TrainingState | None]] | None = None
        self._progress = _document(Progress((), None, None, False), self._values, 0)
        return True

    def step(self) -> dict[str, Any]:
        """Train an epoch; return what a scheduler compares, and how the trial stands."""
        if self._steps is None:
            self._steps = self._nested() if self._trial.spec.scaling.workers > 1 else self._alone()
        try:
            progress, self._state = next(self._steps)
        except (StoreError, ResourceError) as error:  # of no trial: the sweep cannot go on
            progress = self._progress | {"ended": True, "fatal": on_a_line(error)}
        except Exception as error:  # of this trial alone: the sweep goes on
            progress = self._progress | {"ended": True, "error": on_a_line(error)}
        self._progress = progress
        name = self._compared.metric.removeprefix("val.")
        worst = -WORST if self._compared.mode == "max" else WORST
        epochs = epochs_of(progress)
        value = epochs[-1].val.get(name, worst) if epochs and not progress["diverged"] else worst
        return {"value": value, "done": progress["ended"], "progress": json.dumps(progress)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write where the trial stands, for schedulers that pause or copy trials."""
        if self._state is not None:
            folder = Path(checkpoint_dir)
            (folder / STATE).write_bytes(state_to_bytes(self._state))
            (folder / PROGRESS).write_text(json.dumps(self._progress))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from what another trial, or this one, wrote."""
        folder = Path(checkpoint)
        if (folder / STATE).exists():
            self._start = state_from_bytes((folder / STATE).read_bytes())
            self._progress = json.loads((folder / PROGRESS).read_text())
        self._steps = None

    def _alone(self) -> Iterator[tuple[dict[str, Any], TrainingState]]:
        """Train in this process."""
        spec = self._trial.spec
        torch.set_num_threads(spec.scaling.cpus_per_worker)
        if self._bench is None:
            ranks = one_process(device_of(spec.scaling))
            self._bench = Bench(self._store, self._sweep_id, self._compared, ranks)
        if self._mutates:
            spec = trial_spec(spec, self._values, f"trial {self._trial.number}")
        trial = self._trial.model_copy(update={"spec": spec})
        computed = self._progress["trunk_images"]
        if self._sharing and self._start is None:
            computed = self._bench.fill(spec, self._sharing)
        before = epochs_of(self._progress), self._progress["checkpoint"]
        for progress, state in train_trial(self._bench, trial, self._start, before):
            yield _document(progress, self._values, computed), state

    def _nested(self) -> Iterator[tuple[dict[str, Any], None]]:
        """Train on several workers, as a run of its own."""
        spec = self._trial.spec
        run = create_run(self._store, spec)
        events: queue.Queue[Any] = queue.Queue()

        def train() -> None:
            try:
                run_finetune(self._store, run, events.put)
                events.put(None)
            except Exception as error:
                events.put(error)

        thread = threading.Thread(target=train, daemon=True)
        thread.start()
        kept: tuple[TrialEpoch, ...] = ()
        diverged: str | None = None
        while (event := events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Validated):
                found, diverged = trial_epochs([(event.epoch, event.train, event.val)])
                kept += found
                if event.epoch < spec.train.epochs:
                    yield (
                        _document(Progress(kept, diverged, None, False), self._values, 0, run),
                        None,
                    )
        thread.join()
        checkpoint = latest_checkpoint(self._store, run)
        folder = checkpoint.folder if checkpoint else None
        yield _document(Progress(kept, diverged, folder, True), self._values, 0, run), None


def _document(
    progress: Progress, values: dict[str, JsonValue], computed: int, run: str | None = None
) -> dict[str, Any]:
    return {
        "epochs": [epoch.model_dump(mode="json") for epoch in progress.epochs],
        "diverged": progress.diverged,
        "checkpoint": progress.checkpoint,
        "ended": progress.ended,
        "values": values,
        "trunk_images": computed + progress.trunk_images,
        "run": run,
    }


def epochs_of(progress: dict[str, Any]) -> tuple[TrialEpoch, ...]:
    """Return the epochs of a trial out of what its actor told."""
    return tuple(TrialEpoch.model_validate(epoch) for epoch in progress.get("epochs", ()))


def batch_on_ray(
    uri: str,
    sweep_id: str,
    compared: Compared,
    batch: Sequence[Trial],
    scaling: Scaling,
    seconds: float | None,
) -> list[tuple[Progress, float]]:
    """Train heads as one computation in a task on the connected Ray."""

    def train() -> list[tuple[Progress, float]]:
        torch.set_num_threads(scaling.cpus_per_worker)
        keep_freed_memory()
        ranks = one_process(device_of(scaling))
        bench = Bench(Store.open(uri), sweep_id, compared, ranks)
        return train_together(bench, batch, lambda trial, epoch: None, seconds)

    task = ray.remote(num_cpus=scaling.cpus_per_worker, num_gpus=scaling.gpus_per_worker)(train)
    try:
        outcomes: list[tuple[Progress, float]] = ray.get(task.remote())
    except ray.exceptions.RayTaskError as error:
        raise error.cause or error from None
    return outcomes


def on_a_line(error: Exception) -> str:
    """Return what a trial failed of, whatever it was."""
    text = " ".join(str(error).split())
    return text if isinstance(error, GraftError) else f"{type(error).__name__}: {text}"


def device_of(scaling: Scaling) -> torch.device:
    """Return where a trial trains, set to give the same numbers every time.

    Raises:
        ResourceError: it asks for a GPU, and there is none here.
    """
    if scaling.gpus_per_worker == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ResourceError(
            "base.scaling.gpus_per_worker is 1, and there is no GPU here that torch can use; set "
            "it to 0, or name a cluster in RAY_ADDRESS"
        )
    repeat_exactly()
    return torch.device("cuda")
