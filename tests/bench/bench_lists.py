"""Lists of a large store: requests and seconds of each command, on an S3 server of this machine.

One run, one sweep and one evaluation are made; their markers are then copied under other ids, as
often as `SIZES` says. Each command is measured twice: the second time it finds what the first one
left. Run with another release's platform folder as PYTHONPATH, it measures that one; with a share,
as in `bench_lists.py 0.2`, a store with that part of everything but the classes; with a number
after it, as in `bench_lists.py 0.01 25000`, that many jobs.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from colours import colour_spec, draw_colours
from conftest import MINIO, run_minio

SIZES = {
    "versions": 500,
    "runs": 2000,
    "classes": 1000,
    "reports": 200,
    "trials": 1000,
    "jobs": 500,
}
SHARE = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
SIZES |= {name: round(size * SHARE) for name, size in SIZES.items() if name != "classes"}
if len(sys.argv) > 2:
    SIZES["jobs"] = int(sys.argv[2])
SHOWN = SIZES["versions"] // 2
"""The version and the run that are shown."""
BUCKET = "large"
COUNTED = """
import sys, time, botocore.httpsession as http
requests, send = [0], http.URLLib3Session.send
def counted(self, request):
    requests[0] += 1
    return send(self, request)
http.URLLib3Session.send = counted
began = time.monotonic()
try:
    {code}
except SystemExit as end:
    assert not end.code, end
print("measured", requests[0], time.monotonic() - began, file=sys.stderr)
"""
COMMAND = "import graft.cli.main as cli; sys.argv = {words!r}; cli.main()"
REGISTER = """
    from graft.store import Store; from graft import registry
    store = Store.open({uri!r})
    known = registry.get_model(store, 'colours@7')
    fields = {{name: value for name, value in known if name in registry.ModelDraft.model_fields}}
    lineage = known.lineage.model_copy(update={{'run': 'new-' + str(time.time_ns())}})
    draft = registry.ModelDraft(**fields | {{'lineage': lineage}})
    began = time.monotonic(); requests[0] = 0
    registry.register(store, draft, b'tail', b'golden')
"""
JOBS = """
    import itertools
    from graft.store import Store
    try: from graft.cluster.job_overview import Jobs
    except ImportError: from graft.cluster.jobs import Jobs
    jobs = Jobs(None, Store.open({uri!r}))
    print(len(list(itertools.islice(jobs.newest(), 30) if hasattr(jobs, 'newest') else jobs.all())))
"""


def graft(*words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from graft.cli.main import main; main()", *map(str, words)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


def make_small(folder: Path) -> Path:
    """Make a store with one of each, in a directory."""
    from graft.spec import dump_job

    store = folder / "store"
    os.environ["GRAFT_STORE"] = str(store)
    graft("data", "import", draw_colours(folder / "images", 8, 4), "--name", "colours")
    (folder / "spec.yaml").write_text(dump_job(colour_spec(train__epochs=1)))
    graft("train", folder / "spec.yaml")
    graft("evaluate", "colours@1", "--split", "val")
    base = colour_spec(train__epochs=1, backbone__freeze="all", register=None)
    lines = [f"  {line}" for line in dump_job(base).splitlines()]
    space = "{train.optimizer.lr: {choice: [0.001, 0.01]}}"
    sweep = f"kind: sweep\nname: rates\nspace: {space}\nsearch: {{kind: grid}}\n"
    sweep += "scheduler: {kind: none}\nbase:\n"
    (folder / "sweep.yaml").write_text(sweep + "\n".join(lines) + "\n")
    graft("sweep", folder / "sweep.yaml")
    return store


def objects(store: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the objects of the large store."""
    for file in store.rglob("*"):
        if file.is_file():
            yield str(file.relative_to(store)), file.read_bytes()
    (run,) = (store / "runs").iterdir()
    for number in range(SIZES["runs"]):
        name = f"run-{number:05d}"
        for file in run.rglob("*.*"):
            key = f"runs/{name}/{file.relative_to(run)}"
            if file.name in ("spec.yaml", "result.json", "head.json", "attempt.json"):
                yield key, file.read_text().replace(run.name, name).encode()
            elif number == SHOWN and file.name.startswith("confusion"):
                yield key, file.read_bytes()
    version = json.loads((store / "models/colours/versions/1/model.json").read_text())
    version["classes"] += [
        f"class {n} of many" for n in range(len(version["classes"]), SIZES["classes"])
    ]
    for number in range(2, SIZES["versions"] + 1):
        lineage = version["lineage"] | {"run": f"run-{number:05d}"}
        document = version | {"version": number, "lineage": lineage}
        yield f"models/colours/versions/{number}/model.json", json.dumps(document).encode()
    (report,) = (store / "reports").glob("*/report.json")
    for number in range(SIZES["reports"]):
        data = report.read_text().replace(report.parent.name, f"report-{number}")
        yield f"reports/report-{number}/report.json", data.encode()
    (sweep,) = (folder for folder in (store / "sweeps").iterdir() if folder.is_dir())
    trial = json.loads((sweep / "trials/1.json").read_text())
    for name in ("plan.json", "spec.yaml"):
        yield f"sweeps/unfinished/{name}", (sweep / name).read_bytes()
    for number in range(1, SIZES["trials"] + 1):
        data = json.dumps(trial | {"number": number}).encode()
        yield f"sweeps/unfinished/trials/{number}.json", data
    for number in range(SIZES["jobs"]):
        job = {"job": f"job-{number}", "kind": "finetune", "state": "succeeded", "attempt": 1}
        job |= {"started": "2026-01-01T00:00:00+00:00", "final": True}
        yield f"jobs/job-{number}/job.json", json.dumps(job).encode()
        yield f"jobs/job-{number}/spec.yaml", (run / "spec.yaml").read_bytes()


def measure(code: str) -> tuple[int, float]:
    """Return the requests and the seconds that some code takes, in a process of its own."""
    program = COUNTED.format(code=code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("measured ")]
    if not lines:
        raise RuntimeError(done.stderr[-2000:])
    _, requests, seconds = lines[-1].split()
    return int(requests), float(seconds)


def main() -> None:
    if not MINIO.exists():
        sys.exit("no S3 server is built; run: make programs")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "minio").mkdir()
        small = make_small(folder)
        with run_minio(folder / "minio") as server:
            os.environ.update(server.environment)
            os.environ["GRAFT_CACHE"] = str(folder / "cache")
            client = boto3.session.Session().client("s3")
            client.create_bucket(Bucket=BUCKET)
            with ThreadPoolExecutor(16) as pool:
                puts = pool.map(
                    lambda item: client.put_object(Bucket=BUCKET, Key=item[0], Body=item[1]),
                    objects(small),
                )
                print(f"{sum(1 for _ in puts):,} objects")
            uri = os.environ["GRAFT_STORE"] = f"s3://{BUCKET}"
            rows = {
                " ".join(words): COMMAND.format(words=["graft", *words])
                for words in (
                    ("models", "ls"),
                    ("models", "show", f"colours@{SHOWN}"),
                    ("models", "promote", f"colours@{SHOWN + 1}"),
                    ("runs", "ls"),
                    ("runs", "show", f"run-{SHOWN:05d}"),
                    ("sweeps", "ls"),
                    ("sweeps", "show", "unfinished"),
                )
            }
            rows |= {"register": REGISTER.format(uri=uri), "jobs ls": JOBS.format(uri=uri)}
            table = Table("command", "requests", "s", "requests again", "s again")
            for name, code in rows.items():
                try:
                    first, again = measure(code), measure(code)
                except RuntimeError as error:  # another release may lack what it calls
                    table.add_row(name, str(error).splitlines()[-1])
                    continue
                cells = [f"{first[0]:,}", f"{first[1]:.1f}", f"{again[0]:,}", f"{again[1]:.1f}"]
                table.add_row(name, *cells)
            Console().print(table)


if __name__ == "__main__":
    main()
