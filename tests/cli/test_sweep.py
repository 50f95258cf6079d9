"""`graft sweep --plan` and `graft sweeps`: the real command on a tiny dataset, without Ray."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import commands
from colours import colour_spec, draw_colours
from graft.data.importing import import_dataset
from graft.spec import Sweep, dump_job, parse_job
from graft.store import Store
from graft.sweep.best_trial import best_trial
from graft.sweep.prepare_sweep import prepare_sweep
from graft.sweep.sweep_plan import Throughput
from graft.sweep.sweep_records import (
    SweepResult,
    TrialEpoch,
    TrialRecord,
    create_sweep,
    publish_sweep,
    put_trial,
)

Graft = Callable[..., tuple[int, str, str]]
RATES = [1e-3, 1e-2]


def sweep_spec() -> Sweep:
    base = colour_spec(register=None, augment={"kind": "standard", "views": 2})
    document = {
        "kind": "sweep",
        "name": "colours",
        "base": base.model_dump(mode="json", by_alias=True),
        "space": {
            "backbone.freeze": {"choice": ["all", -1, 0]},
            "train.optimizer.lr": {"choice": RATES},
        },
        "search": {"kind": "grid"},
    }
    return parse_job(document, "test", Sweep)


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep's spec and a store that has its dataset."""
    folder = tmp_path_factory.mktemp("user")
    draw_colours(folder / "images")
    import_dataset(
        Store.open(str(folder / "graft-store")), str(folder / "images"), "colours", test_fraction=0
    )
    (folder / "sweep.yaml").write_text(dump_job(sweep_spec()))
    (folder / "job.yaml").write_text(dump_job(colour_spec()))
    return folder


@pytest.fixture
def graft(user: Path) -> Graft:
    """Runs the real `main` in the user's folder: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        done = commands.main(*arguments, cwd=user, env={"COLUMNS": "160"})
        return done.returncode, done.stdout, done.stderr

    return run


def files(user: Path) -> set[Path]:
    return {path for path in user.rglob("*") if path.is_file()}


@pytest.mark.slow  # two CPU seconds
def test_a_plan_for_people_without_ray_and_nothing_written(user: Path) -> None:
    before = files(user)
    done = commands.graft("sweep", "sweep.yaml", "--plan", cwd=user, without=("ray",))
    assert (done.returncode, done.stderr) == (0, "")
    assert files(user) == before
    for words in (
        "trials in running order",
        "train.optimizer.lr",
        "batch 1",
        "distinct trunks",
        "squeezenet1_1 fire8",
        "activations: ",
        "with each trunk computed once, ",
        "asha stops trials early",
    ):
        assert words in done.stdout


def test_a_plan_as_a_document(user: Path, graft: Graft) -> None:
    before = files(user)
    code, output, messages = graft("sweep", "sweep.yaml", "--plan", "--json")
    assert (code, messages) == (0, "")
    assert files(user) == before
    plan = json.loads(output)
    assert plan["known"]
    assert plan["count"] == len(plan["trials"]) == 6
    order = [
        (t["changes"]["backbone.freeze"], t["changes"]["train.optimizer.lr"])
        for t in plan["trials"]
    ]
    assert order == [(freeze, rate) for freeze in (0, -1, "all") for rate in RATES]
    assert [trial["trunk"] for trial in plan["trials"]] == [None, None, 1, 1, 2, 2]
    assert plan["trials"][0]["spec"]["train"]["optimizer"]["lr"] == 1e-3
    assert [(t["through"], t["parent"], t["images"]) for t in plan["trunks"]] == [
        ("fire8", None, 15 + 2 * 39),
        ("fire9", 1, 15 + 2 * 39),
    ]
    # 512 channels of one pixel at the end of both stages, in float32.
    assert plan["bytes"] == 2 * (15 + 2 * 39) * 512 * 4
    assert plan["batches"] == [[5, 6]]
    assert 0 < plan["cached_s"] < plan["uncached_s"]


def test_a_plan_of_trials_that_are_not_known_yet(graft: Graft) -> None:
    search = "search={kind: tpe, trials: 6, startup: 2}"
    code, output, _ = graft("sweep", "sweep.yaml", "--plan", "--set", search)
    assert code == 0
    assert "6 trials, which tpe chooses as it goes" in output
    assert "activations: at most " in output


BAD: list[tuple[list[str], str]] = [
    ([], "expected a spec, such as jobs/sweep.yaml, or --resume ID"),
    (["nothing.yaml"], "cannot read nothing.yaml"),
    (["job.yaml"], "job.yaml: kind is finetune; expected sweep: `graft train` runs this one"),
    (["sweep.yaml", "--resume", "x"], "--resume goes on with a sweep as it was recorded; it"),
    (["--resume", "colours-x"], "no sweep 'colours-x' in "),
    (["sweep.yaml", "--set", "space={}"], "space: is empty: name at least one key of base"),
    (
        ["sweep.yaml", "--set", "space.train.optimizer.rate.choice=[1]"],
        "space: unknown key 'train.optimizer.rate'; did you mean",
    ),
    (
        ["sweep.yaml", "--set", "search.metric=val.precision"],
        "search.metric: there is no metric 'val.precision'; did you mean",
    ),
    (
        ["sweep.yaml", "--set", "search.metric=val.top5_accuracy"],
        "search.metric: val.top5_accuracy needs more than 5 classes; 'colours' has 3",
    ),
    (
        ["sweep.yaml", "--set", "budget.wall_time_s=1e-6"],
        "budget.wall_time_s (1e-06) is too small for one trial, which takes about",
    ),
    (
        ["sweep.yaml", "--set", "space.backbone.freeze.choice=[all, fire10]"],
        "trial (backbone.freeze fire10, train.optimizer.lr 0.001): backbone.freeze: squeezenet1_1",
    ),
    (["sweep.yaml", "--set", "base.dataset.name=colors"], "no dataset 'colors' in "),
    (["sweep.yaml", "--set", "base.train.epoch=1"], "unknown key 'base.train.epoch'; did you mean"),
    (
        [
            "sweep.yaml",
            "--set=search={kind: tpe, trials: 6, startup: 2}",
            "--set=warm_start=colours-x",
        ],
        "no sweep 'colours-x' in ",
    ),
]


@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["run", "plan"])
@pytest.mark.parametrize(
    ("arguments", "message"), BAD, ids=lambda v: v if isinstance(v, str) else ""
)
def test_what_it_refuses(
    user: Path, graft: Graft, arguments: list[str], message: str, plan: list[str]
) -> None:
    before = files(user)
    code, output, messages = graft(
        "sweep", *arguments, *(plan if "--resume" not in arguments else [])
    )
    assert (code, output) == (2, "")
    assert message in messages
    assert messages.startswith("graft: ")
    assert messages.count("\n") == 1
    assert files(user) == before


@pytest.mark.parametrize("command", ["train", "lr-find"])
def test_other_commands_refuse_a_sweep(user: Path, graft: Graft, command: str) -> None:
    before = files(user)
    code, output, messages = graft(command, "sweep.yaml")
    assert (code, output) == (2, "")
    said = "graft: sweep.yaml: kind is sweep; expected finetune: `graft sweep` runs this one\n"
    assert messages == said
    assert files(user) == before


def record(number: int, accuracy: float, state: str = "finished") -> TrialRecord:
    val = {"accuracy": accuracy, "loss": 1 - accuracy}
    return TrialRecord.model_validate(
        {
            "number": number,
            "id": f"{number:012x}",
            "changes": {"backbone.freeze": "all", "train.optimizer.lr": RATES[number % 2]},
            "state": state,
            "epochs": (TrialEpoch(epoch=1, train=val, val=val),) if state == "finished" else (),
            "seconds": 2.0,
            "ended_s": 2.0 * number,
            "error": None if state == "finished" else "train loss was nan in epoch 1",
        }
    )


@pytest.fixture(scope="module")
def sweeps(user: Path) -> tuple[str, str]:
    """A finished sweep in the user's store, and one that was stopped."""
    store = Store.open(str(user / "graft-store"))
    recorded, plan = prepare_sweep(store, sweep_spec(), Throughput(gflops=1.0, images=1.0))
    finished, stopped = (create_sweep(store, recorded, plan) for _ in range(2))
    trials = [record(1, 0.5), record(2, 0.75), record(3, 0, "diverged")]
    for trial in trials:
        put_trial(store, finished, trial)
    put_trial(store, stopped, trials[0])
    result = SweepResult(
        sweep=finished,
        metric="val.accuracy",
        mode="max",
        best=best_trial(trials, "val.accuracy", "max"),
        run=None,
        model="colours@1",
        metrics={"val": {"accuracy": 0.75, "loss": 0.25}},
        seconds=12.5,
        states={"finished": 2, "diverged": 1},
        trunk_images=93,
        cached_images=0,
        trials=tuple(trials),
        created="2026-01-01T00:00:00+00:00",
    )
    publish_sweep(store, result)
    return finished, stopped


def test_sweeps_are_listed(graft: Graft, sweeps: tuple[str, str]) -> None:
    code, output, _ = graft("sweeps", "ls", "--json")
    assert code == 0
    rows = {row["sweep"]: row for row in json.loads(output)["sweeps"]}
    assert rows.keys() == set(sweeps)
    finished, stopped = (rows[sweep] for sweep in sweeps)
    assert (finished["state"], finished["done"], finished["trials"]) == ("finished", 3, 6)
    assert (finished["best"]["number"], finished["model"]) == (2, "colours@1")
    assert (stopped["state"], stopped["best"]["value"]) == ("unfinished", 0.5)
    _, output, _ = graft("sweeps", "ls")
    assert "val.accuracy 0.7500 (trial 2)" in output


def test_a_finished_sweep_is_shown_the_best_first(graft: Graft, sweeps: tuple[str, str]) -> None:
    code, output, _ = graft("sweeps", "show", sweeps[0])
    assert code == 0
    for words in ("trial 2, epoch 1", "0.7500", "colours@1", "1 diverged, 2 finished", "93 images"):
        assert words in output
    assert "diverged: train loss was nan in epoch 1" in output
    rows = [line for line in output.splitlines() if "│" in line and "0.001" in line]
    assert "0.7500" in rows[1]  # after the best's own values
    _, output, _ = graft("sweeps", "show", sweeps[0], "--json")
    document = json.loads(output)
    assert document["result"]["metrics"]["val"]["accuracy"] == 0.75
    assert [trial["state"] for trial in document["done"]] == ["finished", "finished", "diverged"]


def test_an_unfinished_sweep_says_how_to_go_on(graft: Graft, sweeps: tuple[str, str]) -> None:
    _, output, _ = graft("sweeps", "show", sweeps[1])
    assert f"unfinished, 1 of 6 trials done: graft sweep --resume {sweeps[1]}" in output


def test_plots_are_written(
    graft: Graft, sweeps: tuple[str, str], tmp_path: Path, user: Path
) -> None:
    before = files(user)
    code, _, messages = graft("sweeps", "show", sweeps[0], "--plots", str(tmp_path / "plots"))
    assert code == 0
    names = ["best-so-far.png", "learning-rate.png", "parallel.png"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == names
    assert all((tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert messages.count("wrote ") == 3
    assert files(user) == before


def test_a_finished_sweep_is_not_run_again(graft: Graft, sweeps: tuple[str, str]) -> None:
    code, output, messages = graft("sweep", "--resume", sweeps[0], "--json")
    assert code == 0
    assert "has finished already; nothing was trained" in messages
    document = json.loads(output)
    assert (document["sweep"], document["model"]) == (sweeps[0], "colours@1")
    assert document["metrics"]["val"] == {"accuracy": 0.75, "loss": 0.25}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nothing"], "no sweep 'nothing' in "),
        (["show", "{}", "--plots", "job.yaml"], "job.yaml"),
    ],
)
def test_what_sweeps_refuses(
    user: Path, graft: Graft, sweeps: tuple[str, str], arguments: list[str], message: str
) -> None:
    before = files(user)
    code, output, messages = graft("sweeps", *(word.format(sweeps[0]) for word in arguments))
    assert (code, output) == (2, "")
    assert message in messages
    assert files(user) == before
