"""Sweeps on a real local Ray: what trials give, what is shared, what is survived."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import torch

from colours import colour_spec, draw_colours, new_run
from graft.activations.lease import hold_lease
from graft.backbones.trunk import trunk_chain
from graft.data.importing import import_dataset
from graft.errors import Interrupted, RunFailed, SpecError, StoreError
from graft.registry import get_model
from graft.spec import Sweep, parse_job
from graft.store import Store
from graft.store.directory import Directory
from graft.sweep.prepare_sweep import prepare_sweep
from graft.sweep.run_sweep import run_sweep
from graft.sweep.sweep_events import TrialAdvanced, TrialEnded
from graft.sweep.sweep_plan import Throughput
from graft.sweep.sweep_records import (
    create_sweep,
    read_plan,
    read_sweep,
    read_sweep_result,
    read_trials,
)
from graft.sweep.trial import Selection, TrialProcess, train_together
from graft.sweep.trial_recorder import TrialRecorder
from graft.training.attempt_pointer import claim_attempt
from graft.training.events import Note
from graft.training.prepare_run import assemble
from graft.training.run_records import read_result
from graft.training.worker_group import Ranks

RESNET = {"arch": "timm/test_resnet", "weights": "none", "freeze": "all"}
GRAFT = Path(sys.executable).with_name("graft")
RATES = {"train.optimizer.lr": {"choice": [1e-3, 1e-2]}}
TOGETHER = ("hyperband", "pbt")
"""Schedulers whose trials wait for each other."""
FREEZE = {"backbone.freeze": {"choice": ["all", -1]}}


@pytest.fixture(scope="module")
def imported_colours(tmp_path_factory):
    """The folder of a store that holds the dataset `colours`: to be copied, never written to."""
    folder = tmp_path_factory.mktemp("colours")
    images = draw_colours(folder / "images")
    import_dataset(Store.open(str(folder / "store")), str(images), "colours", test_fraction=0)
    return folder / "store"


@pytest.fixture
def store(imported_colours, tmp_path):
    return Store.open(str(shutil.copytree(imported_colours, tmp_path / "store")))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """A sweep takes all cores of a machine; on more than one, these networks mostly wait."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make(store, space, search=None, scheduler=None, base=None, **rest):
    """Record a sweep of small trials, one after another: an actor takes longer to start."""
    changes = {"backbone": RESNET, "train__epochs": 2, "cache": "on", **(base or {})}
    spec = colour_spec(
        register=None, augment={"kind": "standard", "views": 2}, **changes
    ).model_dump(mode="json", by_alias=True)
    document = {
        "kind": "sweep",
        "name": "colours",
        "base": spec,
        "space": space,
        "search": search or {"kind": "grid"},
        "scheduler": scheduler or {"kind": "none"},
        "register": {"model": "colours", "weights": "best"},
        "budget": {} if scheduler and scheduler["kind"] in TOGETHER else {"concurrency": 1},
        **rest,
    }
    sweep = parse_job(document, "test", Sweep)
    speed = Throughput(gflops=100, images=1000)
    return create_sweep(store, *prepare_sweep(store, sweep, speed))


def run(store, sweep_id, events=None):
    show = (lambda event: None) if events is None else events.append
    return run_sweep(store, sweep_id, show, contextlib.nullcontext)


@pytest.mark.slow  # two sweeps
def test_a_sweep_finds_the_best_and_a_second_one_computes_no_trunk(store, ray_cluster):
    first = run(store, make(store, FREEZE | RATES))
    assert first.states == {"finished": 4}
    assert all(trial.setup_s > 0 and trial.seconds > 0 for trial in first.trials)
    assert len(list(store.scan(f"sweeps/{first.sweep}/tails/"))) == 1
    # Two depths in one pass: every view of every image goes through the trunk once.
    assert first.trunk_images == 39 * 2 + 15
    values = [max(e.val["accuracy"] for e in t.epochs) for t in first.trials]
    assert first.best.value == max(values)
    version = get_model(store, first.model)
    assert version.lineage.sweep == first.sweep
    assert version.metrics["val"]["accuracy"] == first.best.value

    other = {"train.optimizer.lr": {"choice": [2e-3, 2e-2]}}
    second = run(store, make(store, FREEZE | other))
    assert second.trunk_images == 0
    assert second.cached_images == 2 * (39 * 2 + 15)


@pytest.mark.slow
def test_a_trial_has_the_numbers_of_graft_train(store, ray_cluster, train_alone):
    result = run(store, make(store, {"backbone.freeze": {"choice": [-1, "all", 0]}}))
    for trial in result.trials:
        spec = colour_spec(
            backbone={**RESNET, "freeze": trial.changes["backbone.freeze"]},
            augment={"kind": "standard", "views": 2},
            train__epochs=2,
        )
        name = new_run(store, spec)
        train_alone(store, name)
        alone = [(e["train_loss"], e["val_loss"]) for e in read_result(store, name).history]
        swept = [(e.train["loss"], e.val["loss"]) for e in trial.epochs]
        assert swept == [pytest.approx(pair, rel=1e-4) for pair in alone]


@pytest.mark.slow  # a sweep
def test_trials_that_diverge_or_fail_are_marked_and_the_sweep_goes_on(store, ray_cluster):
    # Normalised by a deviation of 1e-39, pixels are infinite.
    blind = {"resize": 36, "crop": 32, "std": [1e-39, 1e-39, 1e-39]}
    space = {
        "preprocess": {"choice": [{"resize": 36, "crop": 32}, blind]},
        "train.optimizer.lr": {"choice": [5e-3, 1e30]},
    }
    result = run(store, make(store, space, base={"backbone": {**RESNET, "freeze": 0}}))
    states = {
        ("std" in t.changes["preprocess"], t.changes["train.optimizer.lr"]): t
        for t in result.trials
    }
    assert states[False, 5e-3].state == "finished"
    assert states[False, 1e30].state == "diverged"
    assert "was nan" in states[False, 1e30].error or "was inf" in states[False, 1e30].error
    assert states[True, 5e-3].state == "failed"
    assert "not finite before any step" in states[True, 5e-3].error
    assert result.best.changes == {"preprocess": space["preprocess"]["choice"][0]} | {
        "train.optimizer.lr": 5e-3
    }


def test_a_sweep_refuses_what_training_would_fail_of_before_it_starts(store):
    """39 images: with 19 in a batch, one is left over, which has no batch statistics."""
    space = {"train.batch_size": {"choice": [8, 19]}}
    with pytest.raises(SpecError, match=r"train\.batch_size 19.*choose another train\.batch_size"):
        make(store, space, base={"backbone": {**RESNET, "freeze": 0}})


def test_heads_together_need_a_finite_start(store):
    blind = {"resize": 36, "crop": 32, "std": [1e-39, 1e-39, 1e-39]}
    space = {"train.optimizer.lr": {"choice": [5e-3, 1e-2]}}
    sweep_id = make(store, space, base={"preprocess": blind})
    with pytest.raises(RunFailed, match=r"2 of 2 trials ended with: .*not finite before any step"):
        run(store, sweep_id)


@pytest.mark.parametrize("values", [[0.1, 0.25, 1], [1, 1.0], [10, 1.0]])
def test_shares_of_labels_do_not_mix_with_numbers(store, values):
    with pytest.raises(SpecError, match="mixes shares with numbers of images"):
        make(store, {"dataset.labels": {"choice": values}})


def test_a_sweep_without_a_best_trial_fails_and_says_why(store):
    sweep_id = make(store, {"train.optimizer.lr": {"choice": [1e30, 1e31]}})
    why = "no trial gave a finite val.accuracy: 2 of 2 trials ended with: train loss was"
    with pytest.raises(RunFailed, match=why):
        run(store, sweep_id)
    assert [trial.state for trial in read_trials(store, sweep_id)] == ["diverged"] * 2
    assert read_sweep_result(store, sweep_id) is None


def test_an_overtaken_sweep_records_and_publishes_nothing(store):
    sweep_id = make(store, {"train.optimizer.lr": {"choice": [5e-3, 1e-2]}})

    def overtake(event):
        if isinstance(event, TrialAdvanced) and event.epoch == 2:
            claim_attempt(store, f"sweeps/{sweep_id}")

    with pytest.raises(RunFailed, match="attempt 1 was overtaken"):
        run_sweep(store, sweep_id, overtake, contextlib.nullcontext)
    assert read_trials(store, sweep_id) == []
    assert read_sweep_result(store, sweep_id) is None
    assert store.children("models/") == []
    assert run(store, sweep_id).states == {"finished": 2}


def test_what_no_activations_stand_for_is_counted(store):
    space = {"train.optimizer.lr": {"choice": [5e-3, 1e-2]}}
    result = run(store, make(store, space, base={"cache": "off"}))
    # Two heads as one computation: validation before and after both epochs, and these.
    assert result.trunk_images == 3 * 15 + 2 * 39


def test_a_lane_that_diverges_leaves_the_others_alone(store):
    result = run(store, make(store, {"train.optimizer.lr": {"choice": [5e-3, 1e30, 1e-2]}}))
    assert [trial.state for trial in result.trials] == ["finished", "diverged", "finished"]
    assert all(trial.setup_s > 0 and trial.seconds > 0 for trial in result.trials)
    tails = [key for key, _ in store.scan(f"sweeps/{result.sweep}/tails/")]
    assert tails == [result.trials[result.best.number - 1].checkpoint]


class Failing(Directory):
    """A directory that takes no tail, so many times."""

    failures = 0

    def upload(self, key, content):
        if "/tails/" in key and self.failures:
            self.failures -= 1
            raise StoreError(f"{key}: no answer")
        super().upload(key, content)


@pytest.mark.parametrize("failures", [1, pytest.param(99, marks=pytest.mark.slow)])
def test_a_store_that_fails_a_trial_is_asked_again_and_then_it_is_that_trials_end(store, failures):
    backend = Failing(Path(store.uri))
    sweep_id = make(store, {"train.optimizer.lr": {"choice": [5e-3, 1e-2]}}, base={"cache": "off"})
    backend.failures = failures
    if failures == 1:
        assert run(Store(backend), sweep_id).states == {"finished": 2}
        return
    with pytest.raises(RunFailed):
        run(Store(backend), sweep_id)
    trials = read_trials(store, sweep_id)
    assert [trial.state for trial in trials] == ["failed"] * 2
    assert all("no answer" in trial.error for trial in trials)


@pytest.mark.slow  # two sweeps, half a minute
def test_a_stopped_sweep_goes_on_without_doing_anything_again(store, ray_cluster):
    sweep_id = make(store, {"backbone.freeze": {"choice": [-1, 0, 2]}})

    def stop(event):
        if isinstance(event, TrialEnded):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=f"graft sweep --resume {sweep_id}"):
        run_sweep(store, sweep_id, stop, contextlib.nullcontext)
    done = read_trials(store, sweep_id)
    assert len(done) == 1
    assert read_sweep_result(store, sweep_id) is None
    events = []
    result = run(store, sweep_id, events)
    assert [e.record.number for e in events if isinstance(e, TrialEnded)] != [done[0].number]
    assert len([e for e in events if isinstance(e, TrialEnded)]) == 2
    assert read_trials(store, sweep_id)[done[0].number - 1] == done[0]
    assert result.states == {"finished": 3}


@pytest.mark.slow
def test_asha_stops_the_worse_and_tpe_learns_from_an_earlier_sweep(store, ray_cluster):
    space = {"train.optimizer.lr": {"log_uniform": [1e-4, 1e-1]}}
    base = {"backbone": {**RESNET, "freeze": -1}, "train__epochs": 4}
    search = {"kind": "tpe", "trials": 6, "startup": 2}
    asha = {"kind": "asha", "reduction": 2}
    first = run(store, make(store, space, search, asha, base))
    assert sum(first.states.values()) == 6
    assert first.states.get("stopped", 0) >= 1
    assert len({t.changes["train.optimizer.lr"] for t in first.trials}) == 6
    again = {"kind": "tpe", "trials": 2, "startup": 2}
    second = run(store, make(store, space, again, asha, base, warm_start=first.sweep))
    assert sum(second.states.values()) == 2


@pytest.mark.slow
def test_a_sweep_says_that_what_import_has_shrunk_is_enlarged(tmp_path):
    store, images = Store.open(str(tmp_path / "store")), draw_colours(tmp_path / "images", 4, 2)
    import_dataset(store, str(images), "colours", max_side=16, test_fraction=0)
    events = []
    run(store, make(store, RATES), events)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert sum("is enlarged again; import with --max-side 72" in note for note in notes) == 1


@pytest.mark.slow
def test_a_trial_says_for_whom_it_waits(store, ray_cluster):
    """Trials that a plan does not list compute themselves what they read."""
    search = {"kind": "tpe", "trials": 2, "startup": 1}
    sweep_id = make(store, {"train.optimizer.lr": {"log_uniform": [1e-4, 1e-1]}}, search)
    prepared = assemble(store, read_sweep(store, sweep_id).base)
    first_stage = trunk_chain(prepared.model, prepared.contract).digests[1]
    notes = []
    with contextlib.ExitStack() as held:
        lease = f"activations/claims/{first_stage[:16]}-colours.json"
        held.enter_context(hold_lease(store, lease))

        def show(event):
            if isinstance(event, Note) and "waiting" in event.text:
                notes.append(event.text)
                held.close()

        result = run_sweep(store, sweep_id, show, contextlib.nullcontext)
    assert result.states == {"finished": 2}
    (note,) = notes
    assert note.startswith(f"trial 1: waiting for activations that process {os.getpid()} on")


@pytest.mark.parametrize(
    ("search", "scheduler"),
    [
        pytest.param(
            {"kind": "random", "trials": 4},
            {"kind": "hyperband", "reduction": 2},
            id="hyperband",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            {"kind": "random", "trials": 4},
            {"kind": "median", "min_trials": 2},
            id="median",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            {"kind": "bohb", "trials": 5, "startup": 2},
            {"kind": "asha", "reduction": 2},
            id="bohb",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_other_searches_and_schedulers(store, ray_cluster, search, scheduler):
    space = {"train.optimizer.lr": {"log_uniform": [1e-4, 1e-1]}}
    base = {"backbone": {**RESNET, "freeze": -1}, "train__epochs": 4}
    result = run(store, make(store, space, search, scheduler, base))
    assert sum(result.states.values()) == search["trials"]
    assert not {"failed", "diverged"} & set(result.states)
    assert result.model == "colours@1"


@pytest.mark.slow
def test_population_based_training_exchanges_weights_and_values(store, ray_cluster):
    space = {"train.optimizer.lr": {"log_uniform": [1e-4, 1e-1]}}
    base = {"backbone": {**RESNET, "freeze": -1}, "train__epochs": 4}
    sweep_id = make(store, space, {"kind": "random", "trials": 4}, {"kind": "pbt"}, base)
    result = run(store, sweep_id)
    assert result.states == {"finished": 4}
    assert [trial.number for trial in result.trials] == [1, 2, 3, 4]
    assert all([e.epoch for e in trial.epochs] == [1, 2, 3, 4] for trial in result.trials)
    planned = [trial.changes for trial in read_plan(store, sweep_id).trials]
    assert [trial.changes for trial in result.trials] != planned
    assert result.model == "colours@1"


@pytest.mark.slow
def test_trials_that_mix_images_do_not_read_cached_activations(store, ray_cluster):
    run(store, make(store, RATES))
    space = {"train.mixup_alpha": {"choice": [0, 0.5]}}
    result = run(store, make(store, space, base={"cache": "auto"}))
    plain, mixed = ([e.train["loss"] for e in trial.epochs] for trial in result.trials)
    assert plain != mixed


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_that_goes_on_later(store):
    """The real command, in Tune's part of it."""
    base = {"backbone": {**RESNET, "freeze": -1}, "train__epochs": 60}
    sweep_id = make(store, {"train.optimizer.lr": {"choice": [1e-3, 1e-2, 2e-2]}}, base=base)
    command = [GRAFT, "sweep", "--resume", sweep_id, "--store", store.uri]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        # A trial has stored a tail: Tune is under way.
        while not list(store.scan(f"sweeps/{sweep_id}/tails/")) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert process.poll() is None
        assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"graft sweep --resume {sweep_id}" in messages
    assert "Traceback" not in messages
    assert read_sweep_result(store, sweep_id) is None


@pytest.mark.slow
def test_a_trial_of_several_workers_nests_ray_train(store, ray_cluster):
    space = {"backbone.freeze": {"choice": ["all"]}}
    recipe = {"train__seed": 1, "train__optimizer": {"kind": "sgd", "lr": 1.0}}
    search = {"kind": "grid", "metric": "val.loss", "mode": "min"}
    base = {"scaling": {"workers": 2}, **recipe}
    result = run(store, make(store, space, search, base=base))
    assert result.states == {"finished": 1}
    (trial,) = result.trials
    assert [epoch.epoch for epoch in trial.epochs] == [1, 2]
    assert trial.run
    version = get_model(store, result.model)
    assert version.lineage.run == result.run
    # The run goes by the sweep's metric: its own would be the accuracy.
    assert version.epoch == result.best.epoch


@pytest.mark.slow
def test_the_best_is_trained_again_where_the_spec_says_so(store, ray_cluster):
    result = run(store, make(store, RATES, best={"kind": "retrain", "epochs": 3}))
    assert get_model(store, result.model).lineage.run == result.run
    assert get_model(store, result.model).lineage.sweep == result.sweep
    assert len(read_result(store, result.run).history) == 3


@pytest.mark.slow
def test_no_trial_starts_once_the_time_is_spent(store, ray_cluster, monkeypatch):
    """Two heads have an end; what Tune trains after them would have none."""
    clock = property(lambda self: 9.0 if len(self.records) >= 2 else 0.0)
    monkeypatch.setattr(TrialRecorder, "seconds", clock)
    trials = [
        {"backbone.freeze": "all", "train.epochs": 2, "train.optimizer.lr": 1e-3},
        {"backbone.freeze": "all", "train.epochs": 2, "train.optimizer.lr": 1e-2},
        {"backbone.freeze": 0, "train.epochs": 1_000_000},
        {"backbone.freeze": 1, "train.epochs": 1_000_000},
    ]
    search = {"kind": "list", "trials": trials}
    sweep_id = make(store, {}, search, budget={"wall_time_s": 10, "concurrency": 1})
    result = run(store, sweep_id)
    *tuned, first, second = [trial.state for trial in result.trials]
    assert (first, second) == ("finished", "finished")
    # The second does not start; a second may be up before the first one has.
    assert tuned in ([], ["stopped"])


def test_heads_that_are_trained_together_stop_once_the_time_is_spent(store):
    sweep_id = make(store, RATES, base={"train__epochs": 3})
    selection = Selection("val.accuracy", "max", "best")
    ranks = Ranks.alone(torch.device("cpu"))
    process = TrialProcess(store, sweep_id, selection, ranks)
    trials = read_plan(store, sweep_id).trials
    outcomes = train_together(process, trials, lambda trial, epoch: None, seconds=0.0)
    assert [(len(p.epochs), p.ended, p.state) for p in outcomes] == [(1, False, "stopped")] * 2
    assert all(store.exists(progress.checkpoint) for progress in outcomes)


@pytest.mark.slow
def test_a_sweep_on_a_cluster_has_the_numbers_of_one_on_this_machine(
    store, imported_colours, tmp_path, ray_cluster, monkeypatch
):
    here = run(store, make(store, RATES))
    elsewhere = Store.open(str(shutil.copytree(imported_colours, tmp_path / "another")))
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    # What caching costs is measured on a worker, not by the process that drives the sweep.
    monkeypatch.delattr("graft.activations.cache_decision.time_depths")
    there = run(elsewhere, make(elsewhere, RATES))
    # The trunk and the heads that are trained together ran in Ray's tasks.
    assert there.trunk_images == here.trunk_images
    assert there.states == here.states == {"finished": 2}
    for local, remote in zip(here.trials, there.trials, strict=True):
        assert local.changes == remote.changes
        swept = [(e.train["loss"], e.val["loss"]) for e in remote.epochs]
        assert swept == [
            (pytest.approx(e.train["loss"], rel=1e-4), pytest.approx(e.val["loss"], rel=1e-4))
            for e in local.epochs
        ]
