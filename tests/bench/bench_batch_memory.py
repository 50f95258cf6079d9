"""Peak memory of `graft predict-batch` at ten thousand images and at ten times as many.

A list names a few small JPEGs over and over; a small network answers. Of all processes that the
command starts, Ray's among them, what they share counted once. The most that the command's own
process takes stands beside it.

    bench_batch_memory.py --quick    a tenth of the images, to try the bench itself
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lab import Lab
from processes import Memory, Started, total

from graft.registry import get_model
from graft.spec import Contract
from graft.store import Store
from models import encoded, picture, register_model
from report import report

GRAFT = Path(sys.executable).with_name("graft")
FEW, TIMES = 10_000, 10
ASKED = 1.1
PICTURES = 20
PART = 100
EVERY_S = 0.5
CONTRACT = Contract(resize=40, crop=32, max_side=64)


@dataclass(frozen=True)
class Peak:
    """The most that processes took at once, in MiB."""

    all: float
    driver: float
    seconds: float


def main(quick: bool) -> None:
    few = FEW // 10 if quick else FEW
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = Store.open(str(folder / "store"))
        register_model(store, "small", arch="timm/test_resnet", contract=CONTRACT)
        lab = Lab(folder, "timm/test_resnet", get_model(store, "small"), "random weights")
        for number in range(PICTURES):
            (folder / f"{number}.jpg").write_bytes(encoded(picture(number)))
        peaks = [peak(lab, count) for count in (few, few * TIMES)]
    times = peaks[1].all / peaks[0].all
    name = "predict-batch, peak memory, ten times the images"
    report(name, peaks[1].all, peaks[0].all, "MiB", higher_is_better=False)
    verdict = "" if times <= ASKED else "  NOT REACHED"
    print(f"  {times:.3f} times, asked at most {ASKED}{verdict}", flush=True)


def peak(lab: Lab, count: int) -> Peak:
    """Predict so many images; say and return what that takes."""
    source = lab.folder / f"{count}.txt"
    source.write_text("".join(f"{number % PICTURES}.jpg\n" for number in range(count)))
    words = [GRAFT, "predict-batch", lab.name, source, "--store", lab.store.uri]
    words += ["--engine", "torch", "--part-images", str(PART), "--json"]
    log, most, driver, began = lab.folder / f"{count}.log", 0, 0, time.monotonic()
    with Started(words, log, {"OMP_NUM_THREADS": "1"}) as started:
        while started.lives:
            sizes = started.memory()
            most = max(most, total(sizes).pss)
            driver = max(driver, sizes.get(GRAFT.name, Memory()).pss)
            time.sleep(EVERY_S)
    if f'"images": {count}' not in log.read_text():
        raise SystemExit(f"{count} images: {started.said}")
    found = Peak(most / 2**20, driver / 2**20, time.monotonic() - began)
    print(
        f"{count:,} images: {found.all:.0f} MiB at most, {found.driver:.0f} MiB of them the "
        f"command's own; {found.seconds:.0f} s",
        flush=True,
    )
    return found


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="to try the bench itself")
    with contextlib.suppress(KeyboardInterrupt):
        main(parser.parse_args().quick)
