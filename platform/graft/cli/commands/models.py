"""`graft models`: registered models, their aliases, and what their answers mean."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from graft.cli.commands.decisions import calibrate, decide
from graft.cli.commands.removals import rm_model
from graft.cli.help import noun
from graft.cli.mover import mover_of
from graft.cli.options import (
    DEFAULT_STORE,
    DatasetRef,
    Gpus,
    Json,
    Model,
    Split,
    StoreUri,
    open_store,
)
from graft.cli.show.output import LeftOut, counting, emit, note

if TYPE_CHECKING:
    from rich.table import Table

    from graft.decisions.records import Decision
    from graft.registry import ModelVersion, Move, VersionRow

SELF_DECLARED = "* self-declared: what a machine says of itself, which no server vouches for"

app = noun("List, show, compare, promote, calibrate, export and remove registered models.")
app.command()(calibrate)
app.command()(decide)
app.command("rm")(rm_model)


@app.command()
def ls(store: StoreUri = DEFAULT_STORE, json: Json = False) -> None:
    """List every version of every model.

    Example: graft models ls
    """
    from graft.cli.show.tables import text_table
    from graft.registry import aliases, list_models

    opened, left_out = open_store(store), LeftOut()
    rows = [
        _summary(name, row, pointers)
        for name, versions in list_models(opened, left_out.add).items()
        for pointers in [aliases(opened, name, left_out.add)]
        for row in versions
    ]

    def cells(row: dict[str, Any]) -> list[str]:
        accuracy, aliases = _accuracy(row["metrics"]), ", ".join(row["aliases"])
        return [row["model"], aliases, row["arch"], accuracy, row["run"], row["created"][:10]]

    columns = ("model", "aliases", "arch", "accuracy", "run", "created")
    emit({"models": rows}, json, lambda: text_table(columns, map(cells, rows)))
    left_out.tell()


@app.command()
def show(ref: Model, store: StoreUri = DEFAULT_STORE, json: Json = False) -> None:
    """Show one version.

    A name alone means its champion or, where it has none, its newest version.

    Example: graft models show ants-bees@2
    """
    from graft.decisions.records import decision_in_force
    from graft.registry import aliases, get_model

    opened = open_store(store)
    version = get_model(opened, ref)
    pointing = _pointing(version.version, aliases(opened, version.name))
    decision = decision_in_force(opened, version)
    document = {
        "model": version.ref,
        "aliases": pointing,
        "decision": decision and decision.model_dump(mode="json"),
        **version.model_dump(mode="json"),
    }
    emit(document, json, lambda: _details(version, pointing, decision))


@app.command()
def promote(
    ref: Model,
    alias: Annotated[str, typer.Option(help="The alias to move, or to make.")] = "champion",
    force: Annotated[
        bool, typer.Option("--force", help="Also where the version is shown to be worse.")
    ] = False,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Point an alias at a version.

    A model's bare name means its champion. A version that is shown to be worse than training
    from scratch, or than the champion, becomes champion only with --force.

    Example: graft models promote ants-bees@2
    """
    from graft.registry import get_model, promote

    opened = open_store(store)
    version = get_model(opened, ref).ref  # once: what an alias means may change meanwhile
    for line in promote(opened, version, alias, mover_of("graft models promote"), force):
        note(line)
    emit({"model": version, "alias": alias}, json, lambda: f"{alias} is now {version}")


@app.command()
def history(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show every move of a model's aliases: when, who, by which command, on what evidence.

    A user marked with * is what the machine said of itself; no server vouched for it.

    Example: graft models history ants-bees
    """
    from rich.console import Group
    from rich.markup import escape

    from graft.cli.show.tables import text_table
    from graft.registry import alias_history

    moves = alias_history(open_store(store), name)

    def cells(alias: str, move: "Move") -> list[str]:
        who = f"{move.who}{'*' if move.self_declared else ''}" if move.who else "not recorded"
        return [
            _when(move),
            alias,
            _change(move),
            who,
            move.command or "",
            move.basis or "not recorded",
        ]

    def page() -> Group:
        columns = ("when (UTC)", "alias", "version", "who", "command", "evidence")
        table = text_table(columns, (cells(alias, move) for alias, move in moves))
        table.caption, table.caption_justify = SELF_DECLARED, "left"
        # Not in the table, where a sentence would be a column of single words.
        reports = [
            f"{_when(m)} {alias} {_change(m)}: {line}" for alias, m in moves for line in m.evidence
        ]
        return Group(table, *map(escape, reports))

    rows = [
        {"alias": alias, **move.model_dump(mode="json", by_alias=True)} for alias, move in moves
    ]
    emit({"model": name, "moves": rows}, json, page)


def _change(move: "Move") -> str:
    return f"{move.from_ or ''} → {move.to}".strip()


def _when(move: "Move") -> str:
    """Return when an alias moved, in UTC."""
    return move.when[:19].replace("T", " ")


@app.command()
def compare(
    first: Model,
    second: Model,
    dataset: DatasetRef = None,
    split: Split = None,
    gpus: Gpus = 0,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Compare two versions on the same images: is the second better?

    By McNemar's exact test, on the images that exactly one of them gets right. Images that trained
    or tuned either version do not judge. The outcome goes into the registry, where `promote` looks.

    Example: graft models compare ants-bees@1 ants-bees@2 --split test
    """
    from graft.cli.dataset_refs import evaluation_images
    from graft.cli.show.evaluation import comparison_page
    from graft.registry import get_model
    from graft.report.evaluation.classes import check_classes

    opened = open_store(store)
    versions = get_model(opened, first), get_model(opened, second)
    check_classes(*versions)
    images, chosen = evaluation_images(opened, versions[0], dataset, split)

    from graft.cpus import available_cpus
    from graft.report.evaluation.evaluate import compare_versions
    from graft.spec import Scaling

    scaling = Scaling(cpus_per_worker=available_cpus(), gpus_per_worker=gpus)
    with counting("predicting") as progress:
        comparison = compare_versions(opened, *versions, images, chosen, scaling, progress)
    emit(comparison.model_dump(mode="json"), json, lambda: comparison_page(comparison))


@app.command()
def export(
    ref: Model,
    out: Annotated[
        Path, typer.Option(help="File to write; its description is written beside it, as OUT.json.")
    ],
    form: Annotated[
        Literal["onnx", "torch-export", "safetensors"],
        typer.Option(
            "--format",
            help="onnx: a graph that takes pixels (uint8). torch-export: the same as a program of "
            "torch's. safetensors: all weights.",
        ),
    ] = "onnx",
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Write a version as a file for other engines, once it is proved, or none.

    The proof: read back, the file gives from the golden images' own bytes what training recorded.
    A name alone means its champion or, where it has none, its newest version.

    Example: graft models export ants-bees --format onnx --out ants-bees.onnx
    """
    from graft.cli.show.tables import facts
    from graft.registry import get_model
    from graft.serving.engines.export import export_version

    opened = open_store(store)
    description = export_version(opened, get_model(opened, ref), form, out)
    proof = description.proof
    rows = {
        "model": description.model,
        "file": str(out),
        "description": f"{out}.json",
        "input": description.input,
        "output": description.output,
        "proof": f"{proof.golden_images} golden images: logits within "
        f"{proof.largest_difference:.1g} of the recorded ones (allowed {proof.tolerance:g}), "
        f"by {proof.engine}",
    }
    emit(description.model_dump(mode="json"), json, lambda: facts(None, rows))


def _pointing(version: int, aliases: dict[str, int]) -> list[str]:
    return sorted(alias for alias, number in aliases.items() if number == version)


def _summary(name: str, row: "VersionRow", aliases: dict[str, int]) -> dict[str, Any]:
    return {
        "model": f"{name}@{row.version}",
        "name": name,
        "version": row.version,
        "aliases": _pointing(row.version, aliases),
        "arch": row.arch,
        "classes": row.classes,
        "metrics": row.metrics,
        "run": row.run,
        "created": row.created,
    }


def _accuracy(metrics: dict[str, Any]) -> str:
    accuracy = metrics.get("val", {}).get("accuracy")
    return "" if accuracy is None else f"{accuracy:.4f}"


def _details(version: "ModelVersion", aliases: list[str], decision: "Decision | None") -> "Table":
    from graft.cli.show.decision import in_words
    from graft.cli.show.tables import facts

    lineage, contract = version.lineage, version.contract
    rows = {
        "model": version.ref,
        "aliases": ", ".join(aliases) or "none",
        "created": version.created,
        "architecture": f"{version.arch}, {version.freeze} stages frozen",
        "classes": ", ".join(version.classes),
        "input": f"{contract.crop} × {contract.crop}, cut from {contract.resize}",
        "accuracy": _accuracy(version.metrics),
        "answers": in_words(decision),
        "weights": f"epoch {version.epoch} ({version.weights}) of {lineage.run}",
        "pretrained": lineage.weights,
        "dataset": f"{lineage.dataset}@{lineage.dataset_version}",
        "trunk": version.trunk_digest,
        "tail": f"{version.tail.sha256} ({version.tail.size:,} bytes)",
        "packages": ", ".join(f"{name} {number}" for name, number in lineage.packages.items()),
        "commit": lineage.git_commit or "unknown",
    }
    return facts(None, rows)
