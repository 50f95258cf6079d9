"""Does the store keep its promises to processes that race, die, stop and misread the clock?

    make histories                                   all stores, all workloads
    python -m histories --rounds N --seed S          N of each; results are appended to a table

Processes create markers, move pointers, claim attempts, hold leases and begin jobs on a directory,
on an S3 server (MinIO), on that server behind a proxy that loses answers, and on an endpoint whose
conditional writes are not exclusive. They are killed, paused for longer than a lease lasts, and
told wrong times. What they saw is then judged: see `checker` and `fences`. Each round appends a
line to histories.jsonl. The exit code is 1 where a promise was broken, or where none of the broken
promises of the endpoint that makes none was found.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import boto3
from botocore.config import Config
from rich.console import Console
from rich.table import Table

from conftest import MINIO, run_minio
from histories.rounds import PROMISED, STORES, WORKLOADS, Round, as_row, endpoints, play

TABLE = Path(__file__).parents[2] / "histories.jsonl"
BUCKET = "graft-histories"


def main() -> int:
    """Play the rounds, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(description="Check histories of races on a store.")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of each (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (default: 0)")
    parser.add_argument("--seconds", type=float, default=2, help="of a round (default: 2)")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=STORES)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=[*WORKLOADS])
    parser.add_argument("--table", type=Path, default=TABLE, help="where results are appended")
    options = parser.parse_args()
    results = []
    seeds = range(options.seed, options.seed + options.rounds)
    with (
        tempfile.TemporaryDirectory(prefix="graft-histories-") as folder,
        _servers(Path(folder), options.stores) as urls,
    ):
        for seed, kind, workload in itertools.product(seeds, options.stores, options.workloads):
            uri, started = _store(kind, urls, folder), time.monotonic()
            results.append(play(uri, kind, workload, seed, options.seconds))
            _note(options.table, results[-1], time.monotonic() - started)
    _show(results)
    return _verdict(results)


@contextmanager
def _servers(folder: Path, kinds: list[str]) -> Iterator[dict[str, str]]:
    """Run MinIO and what stands before it, if a store needs them, or take what is running."""
    if {*kinds} == {"directory"}:
        yield {}
        return
    if "AWS_ENDPOINT_URL" in os.environ:
        running = nullcontext(dict(os.environ))
    elif MINIO.exists():
        running = _minio(folder / "minio")
    else:
        sys.exit("no MinIO here: `make programs` builds it where there is Go")
    with running as environment:
        os.environ |= environment
        with endpoints(environment) as urls:
            boto3.client("s3", config=Config(s3={"addressing_style": "path"})).create_bucket(
                Bucket=BUCKET
            )
            yield urls


@contextmanager
def _minio(folder: Path) -> Iterator[dict[str, str]]:
    with run_minio(folder) as server:
        yield server.environment


def _store(kind: str, urls: dict[str, str], folder: str) -> str:
    name = uuid.uuid4().hex
    if kind == "directory":
        return f"{folder}/{name}"
    os.environ["AWS_ENDPOINT_URL"] = urls[kind]
    return f"s3://{BUCKET}/{name}"


def _note(table: Path, result: Round, seconds: float) -> None:
    line = {"when": time.time(), "seconds": round(seconds, 1), **as_row(result)}
    with table.open("a") as file:
        file.write(json.dumps(line) + "\n")
    if result.violations:
        more = f" and {len(result.violations) - 1} more" if len(result.violations) > 1 else ""
        where = f"{result.store}, {result.workload}, seed {result.seed}"
        print(f"{where}: {result.violations[0]}{more}", file=sys.stderr)


def _show(results: list[Round]) -> None:
    columns = ("operations", "unsure", "objects", "kills", "pauses", "late")
    table = Table("store", "workload", "rounds", *columns, "undecided", "violations")
    groups = Counter((result.store, result.workload) for result in results)
    for (store, workload), count in groups.items():
        of_this = [each for each in results if (each.store, each.workload) == (store, workload)]
        sums = [sum(getattr(each, column) for each in of_this) for column in columns]
        undecided = sum(bool(each.undecided) for each in of_this)
        violations = sum(len(each.violations) for each in of_this)
        cells = [count, *sums, undecided, violations]
        table.add_row(store, workload, *(f"{cell:,}" for cell in cells))
    Console(width=110).print(table)


def _verdict(results: list[Round]) -> int:
    broken = [each for each in results if each.violations and each.store in PROMISED]
    unnoticed = [each for each in results if each.store not in PROMISED]
    all_unnoticed = unnoticed and not any(each.violations for each in unnoticed)
    return int(bool(broken or all_unnoticed or any(each.undecided for each in results)))


if __name__ == "__main__":
    sys.exit(main())
