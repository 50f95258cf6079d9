"""Where an unfinished run would go on; no torch, for those who only show it."""

from graft.spec import Section
from graft.store import Store
from graft.training.run_records import latest_epoch
from graft.training.step_checkpoint import latest_step_checkpoint


class RunPosition(Section):
    """A place in a run's training."""

    epochs: int
    """Finished epochs."""
    step: int = 0
    """Finished steps of the epoch after them."""
    steps: int | None = None
    """Steps of that epoch; null: it goes on at its beginning."""

    def __str__(self) -> str:
        if self.steps is None:
            return f"after epoch {self.epochs}"
        return f"in epoch {self.epochs + 1} after step {self.step}/{self.steps}"


def run_position(store: Store, run: str) -> RunPosition | None:
    """Return where a run would go on; None: at its beginning."""
    epoch = latest_epoch(store, run)
    epochs = epoch.epoch if epoch else 0
    if inside := latest_step_checkpoint(store, run, epochs):
        return RunPosition(epochs=epochs, step=inside.done, steps=inside.steps)
    return RunPosition(epochs=epochs) if epoch else None
