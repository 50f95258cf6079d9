"""`graft predict-batch MODEL SRC`: answers for many images, offline."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graft.cli.options import DEFAULT_STORE, Json, StoreUri, grouped_options, open_store

if TYPE_CHECKING:
    from graft.spec import Prediction
    from graft.store import Store

ROOM = 1_000
"""Processes at once, where nobody says how many: Ray starts as many as there is room for."""


@dataclass(frozen=True)
class Options:
    """What a person may choose of a prediction."""

    out: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Where the answers are written; default: the store's predictions/ID.",
        ),
    ] = None
    format: Annotated[
        Literal["parquet", "jsonl"], typer.Option("--format", help="Of the answers.")
    ] = "parquet"
    top_k: Annotated[int, typer.Option(min=1, help="How many classes, at most.")] = 5
    logits: Annotated[bool, typer.Option("--logits", help="Write logits, too.")] = False
    embedding: Annotated[
        bool, typer.Option("--embedding", help="Write embeddings, too: what the head is given.")
    ] = False
    against: Annotated[
        str | None,
        typer.Option(metavar="ID", help="An earlier prediction of these images: what changes?"),
    ] = None
    engine: Annotated[Literal["auto", "torch", "onnx"], typer.Option(help="What computes.")] = (
        "auto"
    )
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes at once, at most; default: as there is room for."),
    ] = None
    gpus: Annotated[int, typer.Option(min=0, max=1, help="GPUs of each process.")] = 0
    part_images: Annotated[
        int, typer.Option(min=1, help="Images in a part: each is done once, or again.")
    ] = 1000


@grouped_options
def predict_batch(
    model: Annotated[
        str | None, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="Which model.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SRC",
            help="A folder or s3:// prefix, a table with the column path (.csv, .parquet), files "
            "that hold images (.parquet, WebDataset's .tar), a list of files (.txt), or "
            "dataset://NAME[@VERSION].",
        ),
    ] = None,
    options: Options = Options(),
    resume: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Go on with one that was stopped; instead of MODEL SRC."),
    ] = None,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Answer for all images of a source, on Ray Data.

    By the same engine and the same decision as a server. Answers are written in parts, each of them
    once: one that is stopped goes on with --resume. Files that are no image are listed, with the
    reason, and end nothing.

    Example: graft predict-batch ants-bees photographs --out answers
    """
    from graft.errors import InputError
    from graft.spec import Prediction
    from graft.spec.jobfile import parse_job

    opened = open_store(store)
    if resume is not None:
        if model is not None or source is not None or options != Options():
            raise InputError(
                "--resume goes on with a prediction as it was recorded: no MODEL, SRC or options"
            )
        finish_prediction(opened, resume, json)
        return
    if model is None or source is None:
        raise InputError("expected MODEL and SRC, or --resume ID")
    document = {"kind": "prediction", "model": model, "source": source, **asdict(options)}
    document["workers"] = options.workers or ROOM
    spec = parse_job(document, "graft predict-batch", Prediction)
    finish_prediction(opened, begin_prediction(opened, spec), json)


def begin_prediction(store: "Store", spec: "Prediction", prediction: str | None = None) -> str:
    """Record a prediction, and show how its files are listed; return its id."""
    from graft.cli.show.output import counting
    from graft.prediction.run_prediction import create_prediction

    with counting("listing", "files") as listed:
        return create_prediction(store, spec, prediction, lambda files: listed(files, files))


def finish_prediction(store: "Store", prediction: str, json: bool, take_over: bool = False) -> None:
    """Run, or go on with, a recorded prediction; show its progress and then what came of it.

    `take_over` as `hold_attempt` has it.

    Raises:
        Interrupted: the user pressed Ctrl-C; parts that are done stay.
    """
    from graft.cli.show.output import emit, note
    from graft.cli.show.pace import showing_pace
    from graft.cli.show.prediction import prediction_page
    from graft.cluster.local_ray import ray_session, silent_core
    from graft.errors import Interrupted
    from graft.prediction.records import is_begun, read_finished, read_spec
    from graft.prediction.run_prediction import run_prediction

    note(f"prediction {prediction}")
    outcome = read_finished(store, prediction)
    if outcome is None:
        if not is_begun(store, prediction):  # it was interrupted while its files were listed
            begin_prediction(store, read_spec(store, prediction), prediction)
        try:
            with ray_session(), silent_core(), showing_pace(lambda pace: "predicting") as progress:
                from graft.prediction.ray_data import predict_on_ray

                predict = predict_on_ray(store)
                outcome = run_prediction(store, prediction, predict, progress, note, take_over)
        except (Interrupted, KeyboardInterrupt):
            raise Interrupted(
                "stopped; parts that are done stay. Go on with: "
                f"graft predict-batch --resume {prediction}"
            ) from None
    shown = outcome
    emit(shown.model_dump(mode="json"), json, lambda: prediction_page(shown))
