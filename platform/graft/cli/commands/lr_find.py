"""`graft lr-find SPEC`: the learning-rate range test."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import DEFAULT_STORE, Json, Settings, StoreUri, open_store

if TYPE_CHECKING:
    from rich.text import Text

    from graft.spec import Finetune
    from graft.store import Store
    from graft.training.lr_find import RateRange

MIN_STEPS = 10
"""Fewer show no curve: the loss at the start is the mean over the first tenth of the steps."""


def lr_find(
    spec: Annotated[str, typer.Argument(help="Job spec (YAML), kind: finetune.")],
    set_: Settings = None,
    start: Annotated[float, typer.Option(help="The first step's learning rate.")] = 1e-6,
    end: Annotated[float, typer.Option(help="The last step's learning rate.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Training steps, at most; at least 10.")] = 100,
    out: Annotated[
        Path, typer.Option(metavar="FILE.png", help="Where the curve is written.")
    ] = Path("lr-find.png"),
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Find a learning rate: train a little at growing rates.

    Draws the loss over the rate and suggests a rate. In this process, without Ray; nothing is
    written but the curve.

    Example: graft lr-find jobs/finetune.yaml --set train.batch_size=64
    """
    from graft.spec import load_job

    job = load_job(spec, set_ or [])
    _check(start, end, steps, out)
    opened = open_store(store)

    from graft.cli.show.output import emit, note, write_file
    from graft.training.charts import rate_curve_png
    from graft.training.lr_find import RateRange, make_curve, settings
    from graft.training.prepare_run import resolve

    tested = RateRange(start, end, steps)
    recorded = resolve(opened, job)
    curve = make_curve(_losses(opened, recorded, tested), tested)
    png = rate_curve_png(curve.rates, curve.losses, curve.smoothed, curve.suggested)
    write_file(out, png)
    if curve.suggested is None:
        note(
            f"the loss does not fall clearly between {start:g} and {end:g}; look at {out}, then "
            "try a wider range (--start, --end), more steps (--steps) or a larger "
            "train.batch_size"
        )
    elif curve.smoothed[-1] == min(curve.smoothed):
        note(f"the loss still falls at {curve.rates[-1]:g}; a higher --end shows where it stops")
    document = {
        "suggested": curve.suggested,
        "set": settings(recorded.train, curve.suggested) if curve.suggested else [],
        "rates": curve.rates,
        "losses": curve.losses,
        "smoothed": curve.smoothed,
        "png": str(out),
    }
    emit(document, json, lambda: _text(document))


def _check(start: float, end: float, steps: int, out: Path) -> None:
    from graft.errors import InputError

    if not 0 < start < end < math.inf:
        raise InputError(
            f"--start {start:g} --end {end:g}: expected two learning rates above 0, the lower first"
        )
    if steps < MIN_STEPS:
        raise InputError(f"--steps {steps}: too few to see a curve; expected {MIN_STEPS} or more")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; expected a file, such as {out / 'lr-find.png'}")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: {out.parent} is not a folder")
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"--out {out}: {out.parent} cannot be written to")


def _losses(store: "Store", spec: "Finetune", tested: "RateRange") -> list[float]:
    """Run the test in this process, with a bar over its steps; return the losses."""
    from graft.backbones.process_setup import has_gpu
    from graft.cli.show.output import note, progress_bar
    from graft.training.lr_find import range_losses

    gpus = spec.scaling.gpus_per_worker if has_gpu() else 0
    note(
        f"{tested.steps} steps of {spec.train.batch_size} images at learning rates from "
        f"{tested.start:g} to {tested.end:g}, on {'a GPU' if gpus else 'CPUs'}"
    )
    if spec.dataset.labels_in_words:
        note(spec.dataset.labels_in_words)
    losses: list[float] = []
    with progress_bar() as progress:
        task = progress.add_task("starting", total=tested.steps, numbers="")
        for rate, loss in zip(
            tested.rates(), range_losses(store, spec, tested, gpus), strict=False
        ):
            losses.append(loss)
            progress.update(
                task,
                description=f"step {len(losses)}/{tested.steps}",
                completed=len(losses),
                numbers=f"rate {rate:.2g}  loss {loss:.3f}",
            )
    if len(losses) < tested.steps:
        note(
            f"the loss ran away after step {len(losses)}, at a rate of "
            f"{tested.rates()[len(losses) - 1]:.2g}; the test ends there"
        )
    return losses


def _text(document: dict[str, Any]) -> "Text":
    from shlex import quote

    from rich.text import Text

    suggested = document["suggested"]
    lines = [f"suggested learning rate: {'none' if suggested is None else f'{suggested:g}'}"]
    lines += [f"  --set {quote(setting)}" for setting in document["set"]]
    lines += [f"curve: {document['png']}"]
    return Text("\n".join(lines))
