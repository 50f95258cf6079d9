"""`graft backbones ls|show|verify|rank`: architectures, their stages, and how they compare."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.help import noun
from graft.cli.options import DEFAULT_STORE, Json, StoreUri, open_store

if TYPE_CHECKING:
    from graft.backbones.verify_architecture import Check
    from graft.data.manifest import DatasetVersion
    from graft.report.shortlist.candidates import Candidate
    from graft.spec import Backbone
    from graft.store import Store

app = noun("List, show, verify and rank backbones.")

Arch = Annotated[str, typer.Argument(metavar="NAME", help="An architecture.")]


@app.command()
def ls(json: Json = False) -> None:
    """List architectures: stages, size, cost, and best accuracy.

    The accuracy is that of the best published weights.

    Example: graft backbones ls
    """
    from graft.backbones.describe import summaries
    from graft.cli.show.backbones import summary_table
    from graft.cli.show.output import emit

    rows = list(summaries())
    emit({"backbones": [asdict(row) for row in rows]}, json, lambda: summary_table(rows))


@app.command()
def show(
    name: Arch,
    crop: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the images in pixels; by default as published."),
    ] = None,
    json: Json = False,
) -> None:
    """Show an architecture's stages, where the freeze depth can cut it.

    Example: graft backbones show resnet50 --crop 288
    """
    from graft.backbones.describe import describe
    from graft.cli.show.backbones import stages_page
    from graft.cli.show.output import emit

    description = describe(name, crop)
    document = asdict(description)
    for part, row in zip(description.parts, document["parts"], strict=True):
        row["bytes"] = part.bytes
    emit(document, json, lambda: stages_page(description))


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
) -> None:
    """Check that an architecture is cut rightly at any freeze depth.

    With real tensors, on this machine: its stages one after another give the published network's
    output bit for bit, their weights fit the published class, and training changes no frozen
    weight.

    Example: graft backbones verify resnet18
    """
    from graft.backbones.torchvision_stages import MAPS
    from graft.cli.show.backbones import checks_table, verdict
    from graft.cli.show.output import emit, note
    from graft.errors import InputError, RunFailed

    if all_ == bool(name):
        raise InputError("name one architecture, or add --all; graft backbones ls lists them")
    if all_ and weights:
        raise InputError("--weights is for one architecture: name it instead of --all")
    checks: dict[str, list[Check]] = {}
    for arch in sorted(MAPS) if all_ else [str(name)]:
        checks[arch] = _verify(arch, weights)
        if all_:
            note(f"{arch}: {verdict(checks[arch])}")
    document = {
        "weights": weights or "random",
        "backbones": {arch: [asdict(c) for c in results] for arch, results in checks.items()},
    }
    emit(document, json, lambda: checks_table(checks))
    failed = [arch for arch, results in checks.items() if not all(c.passed for c in results)]
    if failed:
        raise RunFailed(f"not everything holds for {', '.join(failed)}")


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
            help="Weights of each --arch, in order, as in backbone.weights. Default: imagenet.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE.png", help="Where accuracy against cost is drawn.")
    ] = Path("rank.png"),
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Shortlist backbones for a dataset, without training them.

    By their frozen features on the training images, which are cached: a cross-validated linear
    probe and LogME (arXiv:2102.11005). Also forecasts what an epoch, and a served image, cost.

    Example: graft backbones rank ants-bees --arch resnet50 --arch vgg16
    """
    from graft.cli.dataset_refs import open_dataset_ref
    from graft.cli.show.backbones import ranking_table
    from graft.cli.show.output import emit, note, write_file
    from graft.errors import InputError

    backbones = _candidates(arch, weights)
    if out.is_dir():
        raise InputError(f"--out {out}: expected a file, found a folder")
    opened = open_store(store)
    images = open_dataset_ref(opened, dataset)

    from graft.report.shortlist.candidates import by_promise
    from graft.report.shortlist.rank import count_folds
    from graft.report.shortlist.ranking_chart import ranking_figure
    from graft.training.charts import saved

    folds = count_folds(images)
    ranked = by_promise(_measured(opened, images, backbones, folds))
    write_file(out, saved(ranking_figure(ranked), "png"))
    note(f"accuracy against cost: {out}")
    document = {
        "dataset": images.manifest.ref,
        "folds": folds,
        "backbones": [backbone.model_dump(mode="json") for backbone in ranked],
    }
    emit(document, json, lambda: ranking_table(ranked, folds))


def _candidates(archs: list[str], weights: list[str] | None) -> "list[Backbone]":
    """Return backbones with their weights; imagenet for all, if None.

    Raises:
        InputError: not as many weights as architectures.
    """
    from graft.errors import InputError
    from graft.spec import Backbone

    chosen = weights or ["imagenet"] * len(archs)
    if len(chosen) != len(archs):
        raise InputError(
            f"{len(archs)} times --arch and {len(chosen)} times --weights; name the weights of "
            "each, in order, or of none"
        )
    return [Backbone(arch=arch, weights=w) for arch, w in zip(archs, chosen, strict=True)]


def _measured(
    store: "Store", images: "DatasetVersion", backbones: "list[Backbone]", folds: int
) -> "list[Candidate]":
    """Measure all candidates on this process's CPUs."""
    from graft.backbones.process_setup import set_up_process
    from graft.cli.show.output import counting, note
    from graft.cpus import available_cpus
    from graft.report.shortlist.rank import candidate_spec, measure_candidate

    def waiting(holder: str) -> None:
        note(f"waiting for {holder}, which computes these features now")

    # All specs first: weights that cannot be had are an error before anything is computed.
    specs = [candidate_spec(store, images, backbone) for backbone in backbones]
    set_up_process(available_cpus())
    measured = []
    for spec in specs:
        with counting(f"{spec.backbone.arch}'s features") as progress:
            measured.append(measure_candidate(store, spec, folds, progress, waiting))
    return measured


def _verify(arch: str, weights: str | None) -> "list[Check]":
    import torch

    from graft.backbones.process_setup import set_up_process
    from graft.backbones.verify_architecture import random_model, verify
    from graft.backbones.weights import load_file

    set_up_process(cpus=1)  # with images this small, a second thread mostly waits
    torch.manual_seed(0)
    model = random_model(arch)
    if weights:
        load_file(weights, model)
    return verify(model)
