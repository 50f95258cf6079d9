"""Predictions of an archive: `graft predict-batch` against Ray Data's own batch inference.

The same JPEGs of 500 x 375 on 2 cores, answers written as Parquet. The rival is the pattern of Ray
Data's documentation with eager torchvision; how many actors it has, and its batch, are tuned in the
run. Both are measured with few and with many images: the difference leaves starting out. For each
architecture also the bare engine, which decodes and computes with nothing around it. Then a dataset
whose activations training has kept, against the same images as files.

    bench_batch.py --quick      fewer images, to try the bench itself
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import bare
from lab import Lab, make_lab
from photographs import photographs

from graft.data.importing import import_dataset
from graft.store import Store
from report import record, report

RIVAL = Path(__file__).parent / "rivals" / "ray_data_batch.py"
GRAFT = Path(sys.executable).with_name("graft")
CORES = 2
IMAGES = {"squeezenet1_1": (200, 1000, 3000), "resnet18": (60, 300, 900)}
"""Few, so many as the rival is tuned with, and many, by architecture."""
KEPT = (40, 800)
"""Of each of two classes, few and many images whose activations are kept."""
SETTINGS = ((1, 64), (2, 16), (1, 16))
"""Actors and batches among which the rival's are tuned."""
ASKED = {"squeezenet1_1": ("Ray Data", 1.5), "resnet18": ("the bare engine", 0.9)}
"""Against what, and how many times as fast, we are asked to be."""
BARE_S = 10.0
LIMIT_S = 600


def files(lab: Lab, folder: Path, count: int) -> Path:
    """Return a folder with so many copies of the photograph."""
    folder.mkdir()
    data = lab.photograph.read_bytes()
    for number in range(count):
        (folder / f"{number:05d}.jpg").write_bytes(data)
    return folder


def ours(lab: Lab, engine: str, folder: Path) -> float:
    """Return the seconds of an attempt, Ray's start left out."""
    return predicted(lab.store.uri, lab.name, str(folder), engine)


def predicted(store: str, model: str, source: str, engine: str) -> float:
    """Return the seconds of a prediction, Ray's start left out."""
    words = [GRAFT, "predict-batch", model, source, "--store", store, "--json"]
    words += ["--engine", engine, "--part-images", "100"]
    return float(json.loads(output(words))["seconds"])


def rival(lab: Lab, actors: int, batch: int, folder: Path) -> float:
    """Return the seconds of Ray Data's own."""
    with tempfile.TemporaryDirectory() as out:
        words = [sys.executable, RIVAL, folder, lab.arch, str(actors), str(batch), out]
        return float(json.loads(output(words).splitlines()[-1])["seconds"])


def output(words: list[str | Path]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise SystemExit(f"{words[1]}: {done.stderr[-2000:]}")
    return done.stdout


def rate(seconds: Callable[[Path], float], few: Path, many: Path) -> float:
    """Return images a second, of those that many have more than few."""
    more = count(many) - count(few)
    first = min(seconds(few), seconds(few))  # the engines race but once for a version
    longer = seconds(many) - first
    if longer <= 0:
        raise SystemExit(f"{more} images more took {longer:.1f} s more: start again")
    return more / longer


def count(folder: Path) -> int:
    """Return how many files are below a folder."""
    return sum(path.is_file() for path in folder.rglob("*"))


def main(quick: bool) -> None:
    shrunk = 5 if quick else 1
    for arch, sizes in IMAGES.items():
        with tempfile.TemporaryDirectory() as temporary:
            lab = make_lab(Path(temporary), arch)
            folders = [files(lab, Path(temporary, str(n)), n // shrunk) for n in sizes]
            compare(lab, *folders)
    with tempfile.TemporaryDirectory() as temporary:
        compare_kept(Path(temporary), shrunk)


def compare(lab: Lab, few: Path, some: Path, many: Path) -> None:
    """Measure one architecture, and say what came of it."""
    graph = lab.exported("onnx")
    limits = {
        engine: bare.rates(
            lab.store.uri, lab.version.ref, engine, graph, lab.photograph, BARE_S, CORES
        )[8]
        for engine in ("torch", "onnx")
    }
    words = ", ".join(f"{engine} {limit:.1f}" for engine, limit in limits.items())
    print(f"{lab.arch}, {lab.weights}; bare engines with decoding: {words} images/s", flush=True)
    tuned = {}
    for actors, batch in SETTINGS:
        tuned[actors, batch] = rate(partial(rival, lab, actors, batch), few, some)
        print(
            f"  Ray Data, {actors} actors of {batch}: {tuned[actors, batch]:.1f} images/s",
            flush=True,
        )
    best = max(tuned, key=lambda setting: tuned[setting])
    theirs = rate(partial(rival, lab, *best), few, many)
    found = rate(partial(ours, lab, "auto"), few, many)
    report(f"predict-batch, {lab.arch}, against Ray Data", found, theirs, "images/s")
    limit = max(limits.values())
    share = record(f"predict-batch, {lab.arch}, against the bare engine", found, limit, "images/s")
    print(f"  {share:.2f} of the bare engine", flush=True)
    against, asked = ASKED[lab.arch]
    times = share if against == "the bare engine" else found / theirs
    verdict = "" if times >= asked else "  NOT REACHED"
    print(f"  {times:.2f} times {against}, asked {asked}{verdict}", flush=True)


def compare_kept(folder: Path, shrunk: int) -> None:
    """Measure SqueezeNet over activations that its training has kept, and over the files."""
    store = Store.open(str(folder / "store"))
    images = {}
    for name, each in zip(("few", "many"), KEPT, strict=True):
        images[name] = photographs(folder / name, each // shrunk)
        import_dataset(store, str(images[name]), name, test_fraction=0)
        output([GRAFT, "train", _job(folder, name), "--store", store.uri, "--json"])

    def kept(source: Path) -> float:
        return predicted(store.uri, "many", f"dataset://{source.name}", "torch")

    def read(source: Path) -> float:
        return predicted(store.uri, "many", str(source), "auto")

    found = rate(kept, images["few"], images["many"])
    report(
        "predict-batch, squeezenet1_1, kept activations against files",
        found,
        rate(read, images["few"], images["many"]),
        "images/s",
    )


def _job(folder: Path, name: str) -> Path:
    """Return the job that trains a head on a dataset, and keeps all images' activations."""
    path = folder / f"{name}.yaml"
    path.write_text(
        f"""kind: finetune
name: {name}
dataset: {{name: {name}}}
backbone: {{arch: squeezenet1_1, weights: none, freeze: all}}
augment: {{kind: none}}
cache: on
train: {{epochs: 1}}
register: {{model: many}}
"""
    )
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="to try the bench itself")
    with contextlib.suppress(KeyboardInterrupt):
        main(parser.parse_args().quick)
