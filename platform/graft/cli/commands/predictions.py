"""`graft predictions ls|show`: answers for many images, as they lie in the store."""

from typing import Annotated

import typer

from graft.cli.help import noun
from graft.cli.options import DEFAULT_STORE, Json, StoreUri, open_store

app = noun("List and show predictions.")


@app.command()
def ls(store: StoreUri = DEFAULT_STORE, json: Json = False) -> None:
    """List predictions, the latest first.

    Example: graft predictions ls
    """
    from graft.cli.show.output import LeftOut, emit
    from graft.cli.show.tables import text_table
    from graft.prediction.records import list_predictions

    left_out = LeftOut()
    rows = [
        {
            "prediction": begun.prediction,
            "state": "finished" if finished else "unfinished",
            "model": begun.model,
            "inputs": begun.images,
            "images": finished and finished.images,
            "unusable": finished and finished.unusable,
            "created": begun.created,
        }
        for begun, finished in list_predictions(open_store(store), left_out.add)
    ]
    columns = ("prediction", "state", "model", "files", "created")
    cells = (
        [
            str(row["prediction"]),
            str(row["state"]),
            str(row["model"]),
            f"{row['inputs']:,}",
            str(row["created"])[:19].replace("T", " "),
        ]
        for row in rows
    )
    emit({"predictions": rows}, json, lambda: text_table(columns, cells))
    left_out.tell()


@app.command()
def show(
    prediction: Annotated[str, typer.Argument(metavar="ID", help="A prediction's id.")],
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show what came of a prediction, or how far it is.

    Example: graft predictions show prediction-20260101-120000-1a2b
    """
    from graft.cli.show.output import emit
    from graft.cli.show.prediction import prediction_page, progress_page
    from graft.prediction.records import read_begun, read_finished, read_pace

    opened = open_store(store)
    begun, finished = read_begun(opened, prediction), read_finished(opened, prediction)
    if finished:
        emit(finished.model_dump(mode="json"), json, lambda: prediction_page(finished))
        return
    pace = read_pace(opened, prediction)
    document = {**begun.model_dump(mode="json"), "state": "unfinished"}
    document["progress"] = pace and pace.model_dump(mode="json")
    emit(document, json, lambda: progress_page(begun, pace))
