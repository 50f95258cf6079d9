"""The script itself: arguments, what the machine is, the rows in their order, the exit code."""

import argparse
import contextlib
import ctypes
import importlib.util
import math
import os
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpu.sizes import CPU, GPU, Sizes
from gpu.table import (
    Cut,
    Figure,
    Result,
    Row,
    Skipped,
    print_heading,
    print_result,
    run_rows,
    summary,
)

if TYPE_CHECKING:
    import torch

    from gpu.lab import Lab

OURS = ("gpu", "graft")
"""Packages of this checkout: one that is missing is a fault."""
ALWAYS = -math.inf
"""What a row is expected to take that runs whatever time is left."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return the exit code."""
    started = time.monotonic()
    options = _parser().parse_args(arguments)
    if why := _nothing_to_measure(options.device):
        print(why)
        return 0
    import torch

    from gpu import machine

    device = torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")
    sizes = (GPU if device.type == "cuda" else CPU).with_images(options.images)
    lines = [machine.describe(device)]
    if device.type == "cpu":
        torch.set_num_threads(1)
    if machine.without_torchvision():
        from gpu.network import LAYERS

        sizes = sizes.among(tuple(LAYERS))
        lines.append("torchvision is not installed: ResNets of the tests' own take its place")
    if machine.on_older_torch():
        lines.append("torch is older than 2.13: DistributedDataParallel's options are renamed")
    lines.append(f"gradients go by {machine.join(device)}")
    print("\n".join(part for line in lines for part in textwrap.wrap(line, 80)))
    ends = started + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="graft-gpu-") as folder:
        os.environ["GRAFT_CACHE"] = f"{folder}/cache"
        rows = [
            row
            for row in _rows(device, sizes, Path(folder))
            if options.rows in row.name or row.seconds == ALWAYS
        ]
        cut = Cut(rows, ends - time.monotonic())

        def show(result: Result) -> None:
            print_result(result)
            cut.done(result)

        print_heading()
        with _warnings_told() as told:
            results = run_rows(rows, ends, show)
        cut.stop()
    torch.distributed.destroy_process_group()
    for warning in told:
        print("\n".join(textwrap.wrap(f"warned: {warning}", 80, subsequent_indent="    ")))
    print(summary(results, time.monotonic() - started))
    return int(any(result.verdict == "FAILED" for result in results))


@contextlib.contextmanager
def _warnings_told() -> Iterator[list[str]]:
    """Collect what is warned of, each once, so that it does not stand within the table.

    Where a GPU cannot repeat an operation exactly, torch warns.
    """
    told: list[str] = []

    def show(message: Warning | str, category: type[Warning], *_: object) -> None:
        line = " ".join(str(message).split())[:300]
        if line not in told:
            told.append(line)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield told


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="What Graft does on this machine's GPU.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--images", type=_eights, metavar="N", help="to train on in comparisons, a multiple of 8"
    )
    parser.add_argument("--rows", default="", metavar="PART", help="rows with this in their names")
    parser.add_argument(
        "--minutes", type=float, default=8.0, metavar="N", help="what does not fit is not run"
    )
    return parser


def _eights(text: str) -> int:
    number = int(text)
    if number < 8 or number % 8:
        raise argparse.ArgumentTypeError(f"{number} is not a multiple of 8")
    return number


def _nothing_to_measure(device: str) -> str | None:
    """Return why, before torch is imported if that can be; None where there is something."""
    if importlib.util.find_spec("torch") is None:
        return f"torch is not installed for {sys.executable}: nothing to measure"
    if device == "cpu":
        return None
    if not _driver():
        return "no GPU here, and no driver of one: nothing to measure"
    import torch

    if not torch.cuda.is_available():
        return f"no GPU here that torch {torch.__version__} sees: nothing to measure"
    return None


def _driver() -> bool:
    if Path("/dev/kfd").exists():  # AMD's; the rest comes with torch
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _rows(device: "torch.device", sizes: Sizes, folder: Path) -> list[Row]:
    """Return all rows, those that wait for a compiler last."""
    from gpu import transfer

    sending = transfer.rows(device, sizes)
    ray = Row("ray", "imported by none of this", _no_ray, ALWAYS)
    try:
        from gpu import leases, numerics, speed
        from gpu.lab import Lab
    except ImportError as error:
        return [Row("graft", "all but the next rows", _cannot_import(error), ALWAYS), *sending, ray]
    labs: list[Lab] = []

    def draw() -> Figure:
        labs.append(Lab.make(device, sizes, folder))
        return Figure(f"{labs[0].dataset.manifest.images} images")

    def lab() -> "Lab":
        if not labs:
            raise RuntimeError("there are no images: see the first row")
        return labs[0]

    return [
        Row("images", "drawn, and imported", draw, ALWAYS),
        *leases.rows(lab),
        *numerics.rows(lab),
        *sending,
        *speed.rows(lab, sizes),
        *numerics.compiled_rows(lab),
        *speed.compiled_rows(lab, sizes),
        ray,
    ]


def _cannot_import(error: ImportError) -> Callable[[], Figure]:
    """Return what a row makes of it: a package that is not installed is no failure."""

    def measure() -> Figure:
        package = (error.name or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and package not in OURS:
            raise Skipped(f"{package} is not installed")
        raise error

    return measure


def _no_ray() -> Figure:
    found = sorted(name for name in sys.modules if name.partition(".")[0] == "ray")
    return Figure(found[0] if found else "none", not found)
