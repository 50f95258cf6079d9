"""Make a store for `test_earlier_releases.py` with this release: `make_store.py NAME.tar.xz`.

Everything is made by the real command, but for the job, of which there is only the record, and the
run that was broken off inside an epoch.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from colours import colour_spec, draw_colours, transfer_document
from graft.backbones.make_network import make_network
from graft.backbones.process_setup import set_up_process
from graft.cluster.job_attempts import begin_attempt
from graft.cluster.job_logs import put_log
from graft.cluster.job_records import ClusterIdentity, Driver, Owner, submit_job
from graft.spec import Finetune, dump_job
from graft.store import Store
from graft.training.attempt import run_attempt
from graft.training.events import Event, Saved
from graft.training.prepare_run import resolve
from graft.training.run_records import create_run
from graft.training.worker_group import Ranks

BROKEN = "colours-broken-off"
"""The run that was."""
RESNET = {"arch": "timm/test_resnet", "weights": "none", "freeze": "all"}

LEFT_OUT = re.compile(r"(.*/)?(\.|events\.).*|sweeps/tiny-[^/]+/tails/.*|weights/.*")
"""Large, and never read again: locks, TensorBoard's files, and weights of the transfer report."""


def graft(*words: str | Path) -> None:
    command = "from graft.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", command, *map(str, words)], check=True)


def finetune(alias: str | None, **changes: object) -> Finetune:
    register = alias and {"model": "colours", "weights": "best", "alias": alias}
    recipe = {"train__epochs": 2, "train__optimizer__lr": 0.01, "register": register}
    views = {"augment": {"kind": "standard", "views": 1}}
    return colour_spec(**{"backbone": RESNET, "cache": "on"} | recipe | views | changes)


def sweep() -> dict[str, object]:
    return {
        "kind": "sweep",
        "name": "colours",
        "base": finetune(None, train__epochs=1).model_dump(mode="json", by_alias=True),
        "space": {"train.optimizer.lr": {"choice": [0.01, 0.05]}},
        "search": {"kind": "grid", "metric": "val.loss", "mode": "min"},
        "scheduler": {"kind": "none"},
        "register": {"model": "colours", "weights": "best", "alias": "candidate"},
    }


def transfer() -> dict[str, object]:
    """Return a report whose weights are random, too: what they reach is not the point."""
    torch.save(make_network("timm/test_resnet", 1000, 32).state_dict(), "pretrained.pth")
    backbone = RESNET | {"weights": "pretrained.pth"}
    changes = {"cache": "auto", "augment": {"kind": "none"}, "train__batch_size": 5}
    base = finetune(None, name="tiny", backbone=backbone, **changes)
    return transfer_document(base, 1, labels=[1.0], seeds=1)


def decide_and_predict(source: Path) -> None:
    """Promise what any model keeps, answer for images, and have the engines race for it."""
    promise = ("--accuracy", "0.05", "--confidence", "0.5")
    graft("models", "decide", "colours@1", *promise)
    graft("models", "decide", "colours@2", "--plain")
    graft("predict-batch", "colours@1", source, "--part-images", "40", "--engine", "auto")
    (first,) = Path("store/predictions").iterdir()
    against = ("--against", first.name, "--engine", "torch")
    graft("predict-batch", "colours@2", source, "--format", "jsonl", *against)


def break_off(store: Store) -> None:
    """Leave a run that has a checkpoint inside its second epoch."""
    spec = finetune(None, train__checkpoint={"every": "3 steps"})
    run = create_run(store, resolve(store, spec), BROKEN)

    def stop(event: Event) -> None:
        if isinstance(event, Saved):
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        run_attempt(store, run, Ranks.alone(set_up_process(cpus=1)), stop, time.time())


def record_job(store: Store) -> None:
    submit_job(store, "colours-job", dump_job(finetune("champion")))
    identity = ClusterIdentity("ada-namespace", "uid-1")
    driver = Driver(identity, "head-1", Owner("ada", self_declared=False), gpus=2)
    begin_attempt(store, "colours-job", "finetune", driver, retries=2).succeed("colours@1")
    put_log(store, "colours-job", "driver", 0, b"epoch 1/2\n")


def main(archive: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        os.environ["GRAFT_STORE"] = "store"
        named = ("--name", "colours", "--test-fraction", "0")
        graft("data", "import", draw_colours(Path("images"), 4, 2, test=20), *named)
        Path("run.yaml").write_text(dump_job(finetune("champion")))
        Path("sweep.yaml").write_text(json.dumps(sweep()))
        Path("transfer.yaml").write_text(json.dumps(transfer()))
        graft("train", "run.yaml")
        graft("sweep", "sweep.yaml")
        for version in ("colours@1", "colours@2"):
            graft("evaluate", version, "--split", "val")
        graft("models", "compare", "colours@1", "colours@2", "--split", "val")
        graft("reports", "transfer", "transfer.yaml")
        decide_and_predict(Path("images/test"))
        record_job(Store.open("store"))
        break_off(Store.open("store"))
        more = draw_colours(Path("more"), 1, 1, test=1, seed=1)
        graft("data", "import", more, "--add-to", "colours")
        with tarfile.open(archive, "w:xz") as made:
            for file in sorted(Path("store").rglob("*")):
                if file.is_file() and not LEFT_OUT.fullmatch(str(file.relative_to("store"))):
                    made.add(file, file.relative_to("store"))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
