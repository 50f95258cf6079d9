"""`graft backbones`: architectures, their stages, the proof that they are cut rightly, ranks."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.options import DEFAULT_STORE, Debug, Json, StoreUri

if TYPE_CHECKING:
    from rich.table import Table

    from graft.backbones.verify import Check
    from graft.report.ranking import Ranked

app = typer.Typer(no_args_is_help=True, help="List, show, verify and rank backbones.")

Arch = Annotated[str, typer.Argument(metavar="NAME", help="An architecture.")]


@app.command()
def ls(json: Json = False, debug: Debug = False) -> None:
    """List architectures: stages, size, cost, and the accuracy of their best weights."""
    from rich.table import Table

    from graft.backbones.describe import summaries
    from graft.cli.output import emit

    rows = list(summaries())

    def table() -> Table:
        table = Table(
            caption="`graft backbones show NAME` names the weights", caption_justify="left"
        )
        for name in ("name", "stages", "parameters", "GFLOPs", "input", "top-1 %"):
            table.add_column(name, no_wrap=True, justify="left" if name == "name" else "right")
        for row in rows:
            table.add_row(
                row.name,
                str(row.stages),
                f"{row.parameters / 1e6:.1f} M",
                f"{row.gflops:.2f}",
                f"{row.crop} × {row.crop}",
                f"{row.accuracy:.1f}",
            )
        return table

    emit({"backbones": [asdict(row) for row in rows]}, json, table)


@app.command()
def show(
    name: Arch,
    crop: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the images in pixels; by default as published."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show an architecture's stages, where the freeze depth can cut it."""
    from rich.console import Group
    from rich.table import Column, Table

    from graft.backbones.describe import describe
    from graft.cli.output import emit

    found = describe(name, crop)

    def page() -> Group:
        table = Table(
            Column("freeze", justify="right"),
            Column("stage", no_wrap=True),
            Column("modules", overflow="fold"),
            Column("parameters", justify="right", no_wrap=True),
            Column("GFLOPs", justify="right", no_wrap=True),
            Column("activations", no_wrap=True),
            Column("float32", justify="right", no_wrap=True),
            title=f"{found.arch}, images of {found.crop} × {found.crop}",
            title_justify="left",
        )
        for depth, part in enumerate(found.parts, 1):
            table.add_row(
                str(depth) if depth < len(found.parts) else "",
                part.name,
                ", ".join(_runs(part.modules)),
                f"{part.parameters:,}",
                f"{part.gflops:.3f}",
                "×".join(map(str, part.shape)),
                f"{part.bytes / 1e3:,.0f} kB",
            )
        lines = [f"weights: {', '.join(found.weights) or 'none published'}"]
        if found.left_out:
            lines.append(found.left_out)
        return Group(table, *lines)

    document = asdict(found)
    for part, row in zip(found.parts, document["parts"], strict=True):
        row["bytes"] = part.bytes
    emit(document, json, page)


@app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="An architecture, or --all.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every architecture, one by one.")] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="A weights file, a path or s3:// URI; by default random weights."
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check on this machine that an architecture, frozen at any depth, is what it should be.

    With real tensors: its stages one after another give the published network's output bit
    for bit, their weights fit the published class, and training moves nothing that is frozen.
    """
    from graft.backbones.maps import MAPS
    from graft.cli.output import console, emit
    from graft.errors import InputError, RunFailed

    if all_ == bool(name):
        raise InputError("name one architecture, or add --all; graft backbones ls lists them")
    if all_ and weights:
        raise InputError("--weights is for one architecture: name it instead of --all")
    found: dict[str, list[Check]] = {}
    for arch in sorted(MAPS) if all_ else [str(name)]:
        found[arch] = _verify(arch, weights)
        if all_:
            console.print(f"{arch}: {_verdict(found[arch])}", highlight=False, soft_wrap=True)
    document = {
        "weights": weights or "random",
        "backbones": {arch: [asdict(check) for check in checks] for arch, checks in found.items()},
    }
    emit(document, json, lambda: _table(found))
    if wrong := [arch for arch, checks in found.items() if not _holds(checks)]:
        raise RunFailed(f"not everything holds for {', '.join(wrong)}")


@app.command()
def rank(
    dataset: Annotated[str, typer.Argument(metavar="DATASET[@VERSION]")],
    arch: Annotated[
        list[str], typer.Option("--arch", metavar="NAME", help="A candidate; several times.")
    ],
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            metavar="WEIGHTS",
            help="Of each --arch, in order: as backbone.weights. Default: imagenet for all.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE.png", help="Where accuracy against cost is drawn.")
    ] = Path("rank.png"),
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Shortlist backbones by what their frozen features give on a dataset, without training.

    By a linear probe with cross-validation, and LogME (arXiv:2102.11005), on the training
    images; their activations are kept. With what an epoch costs, and a served image.
    """
    from graft.cli.output import console, counting, emit
    from graft.data.manifest import LATEST, open_dataset
    from graft.errors import InputError
    from graft.spec import Backbone
    from graft.store import Store

    chosen = weights or ["imagenet"] * len(arch)
    if len(chosen) != len(arch):
        raise InputError(
            f"{len(arch)} times --arch and {len(chosen)} times --weights; name the weights of "
            "each, in order, or of none"
        )
    if out.is_dir():
        raise InputError(f"--out {out}: expected a file, found a folder")
    opened = Store.open(store)
    name, _, version = dataset.partition("@")
    images = open_dataset(opened, name, version or LATEST)

    from graft.backend import Directory
    from graft.report.charts import ranking_figure
    from graft.report.ranking import ordered
    from graft.report.shortlist import candidate, folds_of, rank_one
    from graft.training.plots import saved

    folds = folds_of(images)
    pairs = zip(arch, chosen, strict=True)
    # All weights first: what is not to be had is known before anything is computed.
    specs = [candidate(opened, images, Backbone(arch=a, weights=w)) for a, w in pairs]
    found = []
    for spec in specs:
        with counting(f"{spec.backbone.arch}'s features") as progress:
            found.append(rank_one(opened, spec, folds, progress))
    best = ordered(found)
    Directory(out.parent.absolute()).write(out.name, saved(ranking_figure(best), "png"))
    console.print(f"accuracy against cost: {out}", highlight=False, soft_wrap=True)
    document = {
        "dataset": images.manifest.ref,
        "folds": folds,
        "backbones": [one.model_dump(mode="json") for one in best],
    }
    emit(document, json, lambda: _ranking(best, folds))


def _ranking(found: "list[Ranked]", folds: int) -> "Table":
    from rich.table import Column, Table

    table = Table(
        Column("backbone", overflow="fold"),
        *(
            Column(name, justify="right", no_wrap=True)
            for name in ("accuracy %", "LogME", "head s", "kept s", "whole s", "MB", "img/s")
        ),
        caption=f"accuracy: of a linear probe, {folds} folds; head: an epoch that trains the head "
        "alone, kept: with its activations kept, whole: with the whole network trained; forecasts "
        "for this machine as busy as it is; img/s: served, without decoding",
    )
    for one in found:
        head, whole = one.costs[0], one.costs[-1]
        table.add_row(
            f"{one.arch}\n{one.weights.rpartition('/')[2].rpartition('_Weights.')[2]}",
            f"{100 * one.accuracy:.1f} ±{100 * one.deviation:.1f}",
            f"{one.logme:.2f}",
            *(_seconds(spent) for spent in (head.epoch_s, head.cached_s or 0, whole.epoch_s)),
            f"{one.parameters * 4 / 1e6:.0f}",
            f"{one.images_per_second:.0f}",
        )
    return table


def _seconds(spent: float) -> str:
    return f"{spent:.1f}" if spent >= 0.05 else "<0.1"


def _verify(arch: str, weights: str | None) -> "list[Check]":
    import torch

    from graft.backbones.verify import random_model, verify
    from graft.backbones.weights import load_file

    torch.set_num_threads(1)  # for images this small, a second one waits more than it works
    torch.manual_seed(0)
    model = random_model(arch)
    if weights:
        load_file(weights, model)
    return verify(model)


def _holds(checks: "list[Check]") -> bool:
    return all(check.passed for check in checks)


def _verdict(checks: "list[Check]") -> str:
    if _holds(checks):
        return "holds"
    return "; ".join(f"{c.name} FAILS: {c.found}" for c in checks if not c.passed)


def _table(found: "dict[str, list[Check]]") -> "Table | str":
    """Each check of a single architecture, or how many architectures hold."""
    from rich.markup import escape
    from rich.table import Table

    if len(found) > 1:
        held = sum(map(_holds, found.values()))
        return f"{held} of {len(found)} architectures hold"
    (arch, checks), *_ = found.items()
    table = Table("check", "holds", "found", title=arch, title_justify="left")
    for check in checks:
        table.add_row(check.name, "yes" if check.passed else "NO", escape(check.found))
    return table


def _runs(modules: tuple[str, ...]) -> Iterator[str]:
    """Shorten neighbours that count up: a.0, a.1, a.2 to a.0 .. a.2."""
    start = 0
    for end in range(1, len(modules) + 1):
        if end == len(modules) or not _follows(modules[end - 1], modules[end]):
            ends = modules[start], modules[end - 1]
            yield " .. ".join(dict.fromkeys(ends))
            start = end


def _follows(one: str, other: str) -> bool:
    parents, numbers = zip(*(path.rpartition(".")[::2] for path in (one, other)), strict=True)
    if parents[0] != parents[1] or not all(number.isdigit() for number in numbers):
        return False
    return int(numbers[1]) == int(numbers[0]) + 1
