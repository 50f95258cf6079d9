"""A sweep against the pattern of Ray's own examples: wall time, start-up included.

The baseline is `sweep_baseline.py`: a Tuner over a driver that starts a TorchTrainer, as many
trials at once as there are cores. Both see the same images, the same kinds of views, batches
of 32 and as many epochs; Graft's scheduler is off, since the baseline stops no trial early.
Each sweep is a command of its own in a fresh store that has the dataset and nothing else.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from photographs import photographs

from report import report

HERE = Path(__file__).parent
SHARED = HERE.parents[2] / "shared" / "data"
WEIGHTS = SHARED / "weights" / "squeezenet1_1-imagenet.safetensors"
SPEC = HERE.parents[1] / "jobs" / "sweep.yaml"
GRAFT = Path(sys.executable).with_name("graft")
EPOCHS = 5
FOUR = [1e-4, 1e-3, 3e-3, 1e-2]
TWELVE = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2, 5e-2, 1e-1]
CASES = {
    "heads": ("12 head-only trials", TWELVE, ["all"]),
    "depths": ("12 trials at 3 depths", FOUR, ["all", "-1", "-3"]),
    "whole": ("12 trials, 4 of the whole network", FOUR, ["all", "-1", "0"]),
}
"""By the name that GRAFT_BENCH_SWEEPS takes, separated by commas; `whole` only when asked for."""


@dataclass(frozen=True)
class Outcome:
    """What a sweep came to."""

    seconds: float
    accuracy: float


def baseline(
    source: Path, arch: str, weights: str, rates: list[float], depths: list[str]
) -> Outcome:
    """Run the pattern of Ray's examples."""
    command = [sys.executable, HERE / "sweep_baseline.py", source, arch, weights]
    command += [",".join(map(str, rates)), ",".join(depths), str(EPOCHS)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    if len(found["trials"]) != len(rates) * len(depths):
        raise RuntimeError(f"{found['errors']} trials of the baseline failed")
    return Outcome(seconds, max(trial["accuracy"] for trial in found["trials"]))


def ours(
    store: str, arch: str, weights: str, rates: list[float], depths: list[str]
) -> tuple[Outcome, dict[str, int]]:
    """Run `graft sweep`; also return how many images went through a trunk, and how many did not."""
    freeze = "[" + ", ".join(depths) + "]"
    settings = {
        "base.dataset.name": "bench",
        "base.backbone.arch": arch,
        "base.backbone.weights": weights,
        "base.train.epochs": EPOCHS,
        "scheduler": "{kind: none}",
        "space": f"{{backbone.freeze: {{choice: {freeze}}}, "
        f"train.optimizer.lr: {{choice: {rates}}}}}",
    }
    command = [GRAFT, "sweep", SPEC, "--json", "--store", store]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    result = json.loads(done.stdout)
    if result["states"] != {"finished": len(rates) * len(depths)}:
        print(f"states: {result['states']}", flush=True)
    counts = {name: result[name] for name in ("trunk_images", "cached_images")}
    return Outcome(seconds, result["best"]["value"]), counts


class Fresh:
    """Stores that hold the dataset alone."""

    def __init__(self, scratch: Path, source: Path):
        self._scratch = scratch
        self._first = scratch / "store"
        command = [
            GRAFT,
            "data",
            "import",
            source,
            "--name",
            "bench",
            "--test-fraction",
            "0",
            "--store",
            self._first,
        ]
        subprocess.run(command, check=True, capture_output=True)
        self._count = 0

    def store(self) -> str:
        """Return the URI of another one."""
        self._count += 1
        copy = self._scratch / f"store-{self._count}"
        shutil.copytree(self._first, copy)
        return str(copy)


def compare(fresh: Fresh, source: Path, arch: str, weights: str, what: str) -> None:
    """Measure the sweeps of one architecture."""
    for case in os.environ.get("GRAFT_BENCH_SWEEPS", "heads,depths").split(","):
        name, rates, depths = CASES[case]
        store = fresh.store()
        mine, counts = ours(store, arch, weights, rates, depths)
        theirs = baseline(source, arch, "seeded" if weights == "none" else weights, rates, depths)
        print(
            f"{what}, {name}: best accuracy {mine.accuracy:.4f}, baseline {theirs.accuracy:.4f}; "
            f"{counts['trunk_images']:,} images through the trunk",
            flush=True,
        )
        report(
            f"sweep of {what}, {name}", mine.seconds, theirs.seconds, "s", higher_is_better=False
        )
        again, counts = ours(store, arch, weights, rates, depths)
        print(
            f"the same sweep again: {again.seconds:.1f} s, {counts['trunk_images']} images "
            f"through the trunk, {counts['cached_images']:,} kept",
            flush=True,
        )
        shutil.rmtree(store)
        if depths == ["all"]:
            store = fresh.store()
            many = [rate * factor for rate in rates for factor in (1.0, 1.2, 1.4, 1.6)]
            more, _ = ours(store, arch, weights, many, depths)
            print(
                f"{what}: 48 head-only trials take {more.seconds / mine.seconds:.2f} times the "
                f"time of 12 ({more.seconds:.1f} s)",
                flush=True,
            )
            shutil.rmtree(store)


def main() -> None:
    """Measure, print, append to bench.jsonl."""
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as folder:
        scratch = Path(folder)
        real = WEIGHTS.is_file()
        source = SHARED / "ants-bees" if real else photographs(scratch / "images")
        fresh = Fresh(scratch, source)
        weights = str(WEIGHTS) if real else "none"
        compare(fresh, source, "squeezenet1_1", weights, "squeezenet1_1")
        compare(fresh, source, "resnet18", "none", "resnet18 (random weights)")


if __name__ == "__main__":
    main()
