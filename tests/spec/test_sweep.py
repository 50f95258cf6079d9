"""Sweep specs: what is read, what is refused and how that is said, and what is written back."""

import copy
from pathlib import Path
from typing import Any

import pytest

from graft.errors import SpecError
from graft.spec import (
    ASHA,
    AsIs,
    Budget,
    Choice,
    Finetune,
    LogUniform,
    RandomSearch,
    Sweep,
    dump_job,
    load_job,
    parse_job,
    parse_yaml,
    trial_spec,
)
from graft.spec.dotted_keys import all_keys
from graft.sweep.space import count_trials, listed_trials

JOBS = Path(__file__).parents[2] / "jobs"
SWEEP = """\
kind: sweep
name: ants-bees
base: {dataset: {name: ants-bees}, backbone: {arch: resnet18}, train: {epochs: 5}}
space: {train.optimizer.lr: {log_uniform: [1e-4, 1e-1]}, backbone.freeze: {choice: [all, -1, -3]}}
search: {trials: 12}
"""
RATES = {"train.optimizer.lr": {"choice": [1e-3, 1e-2]}}


def document(**changes: Any) -> dict[str, Any]:
    """The spec above with changes; __ stands for the dots of a name."""
    result: dict[str, Any] = copy.deepcopy(parse_yaml(SWEEP, "test"))
    for name, value in changes.items():
        node = result
        *parents, last = name.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return result


def refusal(changes: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as error:
        parse_job(document(**changes), "job.yaml", Sweep)
    assert error.value.exit_code == 2
    said = str(error.value)
    assert "\n" not in said
    return said.removeprefix("job.yaml: ")


def test_the_outline_in_the_design_is_read_with_its_defaults() -> None:
    job = parse_job(document(), "test", Sweep)
    assert job.base == Finetune.model_validate(
        {
            "kind": "finetune",
            "name": "ants-bees",
            "dataset": {"name": "ants-bees"},
            "backbone": {"arch": "resnet18"},
            "train": {"epochs": 5},
        }
    )
    assert job.space == {
        "train.optimizer.lr": LogUniform(log_uniform=(1e-4, 1e-1)),
        "backbone.freeze": Choice(choice=("all", -1, -3)),
    }
    assert job.search == RandomSearch(trials=12, seed=0, metric="val.accuracy", mode="max")
    assert job.scheduler == ASHA(grace=1, reduction=3)
    assert job.budget == Budget(wall_time_s=None, concurrency="auto")
    assert job.best == AsIs()
    assert job.register_ is None


def test_the_base_may_have_a_name_of_its_own() -> None:
    assert parse_job(document(base__name="other"), "test", Sweep).base.name == "other"


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    space = {
        "backbone": {"choice": [{"arch": "resnet18", "weights": "none"}, {"arch": "vgg16"}]},
        "backbone.freeze": {"choice": ["all", -1, 0]},
        "train.batch_size": {"int_uniform": [8, 64]},
        "train.label_smoothing": {"uniform": [0, 0.2]},
        "preprocess": {"choice": [None, {"resize": 64, "crop": 56}]},
    }
    register = {"model": "x"}
    search = {"kind": "tpe", "trials": 30, "metric": "val.loss", "mode": "min"}
    job = parse_job(document(space=space, search=search, register=register), "test", Sweep)
    (tmp_path / "job.yaml").write_text(dump_job(job))
    assert load_job(tmp_path / "job.yaml", (), Sweep) == job


def test_overrides_reach_the_base_and_the_keys_of_the_space(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(SWEEP)
    overrides = [
        "base.train.epochs=3",
        "space.train.optimizer.lr.choice=[1e-3]",
        "space.train.seed={int_uniform: [0, 9]}",
        "search.trials=2",
    ]
    job = load_job(tmp_path / "job.yaml", overrides, Sweep)
    assert job.base.train.epochs == 3
    assert list(job.space) == ["train.optimizer.lr", "backbone.freeze", "train.seed"]
    assert job.space["train.optimizer.lr"] == Choice(choice=(1e-3,))
    whole = ["space={train.seed: {choice: [1, 2]}}", "search.trials=2"]
    job = load_job(tmp_path / "job.yaml", whole, Sweep)
    assert list(job.space) == ["train.seed"]


LISTED = ({"train.seed": 1}, {"train.seed": 2, "backbone.freeze": "all"})


def test_trials_may_be_listed_instead_of_found_in_a_space() -> None:
    job = parse_job(document(space={}, search={"kind": "list", "trials": LISTED}), "test", Sweep)
    assert listed_trials(job) == list(LISTED)
    assert count_trials(job) == 2
    assert job.varied == ("train.seed", "backbone.freeze")
    assert parse_job(parse_yaml(dump_job(job), "again"), "again", Sweep) == job


@pytest.mark.parametrize(
    ("search", "space", "said"),
    [
        ({"trials": []}, {}, "at least 1 item"),
        ({"trials": LISTED}, {"train.seed": {"choice": [1]}}, "space has no effect with"),
        ({"trials": [{"train.sed": 1}]}, {}, "unknown key 'train.sed'"),
        ({"trials": [{"scaling.workers": 2}]}, {}, "'scaling.workers' cannot be varied"),
        ({"trials": [{"train.seed": -1}]}, {}, "search.trials, number 1: 'train.seed'"),
        ({"trials": [{"train.epochs": 2}]}, {}, "'train.epochs' is what scheduler.kind: asha"),
    ],
)
def test_a_list_of_trials_is_checked(search: Any, space: Any, said: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_job(document(space=space, search={"kind": "list"} | search), "test", Sweep)
    assert said in str(error.value)


def test_each_command_has_its_kind() -> None:
    said = "job.yaml: kind is sweep; expected finetune: `graft sweep` runs this one"
    with pytest.raises(SpecError) as error:
        parse_job(document(), "job.yaml")
    assert str(error.value) == said
    with pytest.raises(SpecError, match="kind is finetune; expected sweep: `graft train` runs"):
        load_job(JOBS / "finetune.yaml", (), Sweep)
    assert isinstance(parse_job(document(), "test", None), Sweep)


SPACES: list[tuple[Any, str]] = [
    ({}, "space: is empty: name at least one key of base to vary"),
    ({"lr": {"choice": [1]}}, "space: unknown key 'lr'; did you mean 'train.optimizer.lr'?"),
    ({"backbone.freezing": {"choice": [1]}}, "'backbone.freezing'; did you mean 'backbone.freeze'"),
    ({"zzz": {"choice": [1]}}, "space: unknown key 'zzz'; a finetune spec has: kind, name, datas"),
    ({"head.hidden.0": {"choice": [1]}}, "unknown key 'head.hidden.0'; did you mean 'head.hidd"),
    ({"train": {"choice": [1]}}, "space: 'train' is a section; vary keys of it (train.accumul"),
    ({"train": {"uniform": [0, 1]}}, "space: 'train' is a section"),
    ({"name": {"choice": ["a"]}}, "space: 'name' cannot be varied: it does not change what is"),
    ({"loader.threads": {"choice": [1]}}, "'loader.threads' cannot be varied"),
    ({"train.metric": {"choice": ["val.loss"]}}, "it is the sweep's `search.metric`"),
    ({"train": {"choice": [{"metric": "val.loss"}]}}, "'train.metric' cannot be varied: it is the"),
    ({"train.checkpoint.every": {"choice": ["1h"]}}, "'train.checkpoint.every' cannot be varied"),
    ({"scaling.workers": {"choice": [1]}}, "'scaling.workers' cannot be varied: it says how"),
    ({"register.model": {"choice": ["a"]}}, "the sweep's own `register` says where"),
    ({"head.kind": {"choice": ["mlp"]}}, "which keys there are; give 'head' a choice of mappings"),
    ({"backbone.freeze": {"choice": []}}, "space.backbone.freeze.choice: there is nothing to ch"),
    ({"backbone.freeze": {"choice": [1, 2, 1]}}, "space.backbone.freeze.choice: 1 is there twice"),
    ({"backbone.freeze": [1, 2]}, "'space.backbone.freeze' is [1, 2]; expected {choice: [...]},"),
    ({"backbone.freeze": {"chioce": [1]}}, "'space.backbone.freeze' is a mapping; expected {cho"),
    ({"backbone": {"freeze": {"choice": [1]}}}, "'space.backbone' is a mapping; expected {choice"),
    ({"train.optimizer.lr": {"choice": [1], "uniform": [0, 1]}}, "unknown key 'space.train.optim"),
    ({"train.optimizer.lr": {"log_uniform": [0, 1]}}, "[0, 1]: both bounds must be above 0"),
    ({"train.optimizer.lr": {"log_uniform": [1, 0.1]}}, "expected the smaller bound first"),
    ({"train.optimizer.lr": {"uniform": [1, 1]}}, "[1, 1]: expected the smaller bound first"),
    ({"train.optimizer.lr": {"uniform": [0, 1]}}, "'train.optimizer.lr' is 0.0; input should be"),
    ({"train.optimizer.lr": {"choice": [0.1, -1]}}, "space: train.optimizer.lr = -1: 'train.opt"),
    ({"train.batch_size": {"uniform": [8, 32]}}, "space: train.batch_size = 8.0: 'train.batch_"),
    ({"train.batch_size": {"int_uniform": [0, 3]}}, "space: train.batch_size = 0: 'train.batch_"),
    ({"backbone.freeze": {"choice": [1.5]}}, "space: backbone.freeze = 1.5: 'backbone.freeze' is"),
    ({"train.epochs": {"choice": [1, 2]}}, "'train.epochs' is what scheduler.kind: asha compares"),
    ({"train": {"choice": [{"epochs": 9}]}}, "'train.epochs' is what scheduler.kind: asha"),
    (
        {"backbone": {"choice": [{"arch": "vgg16"}]}, "backbone.arch": {"choice": ["resnet18"]}},
        "space: 'backbone' and 'backbone.arch' both set backbone.arch",
    ),
    (
        {"head": {"choice": [{"kind": "linear"}]}, "head.dropout": {"uniform": [0, 1]}},
        'space: head = {"kind": "linear"}: unknown key \'head.dropout\'',
    ),
]


@pytest.mark.parametrize(("space", "said"), SPACES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_space_is_refused_with_the_key_and_the_nearest(space: Any, said: str) -> None:
    assert said in refusal({"space": space, "search__trials": 1})


SETTINGS: list[tuple[dict[str, Any], str]] = [
    (
        {"search__metric": "val.acuracy"},
        "search.metric: there is no metric 'val.acuracy'; did you mean",
    ),
    (
        {"search__metric": "loss"},
        "search.metric: there is no metric 'loss'; did you mean 'val.loss'?",
    ),
    ({"base__train__metric": "val.loss"}, "base.train.metric: val.loss has no effect in a sweep"),
    ({"base__train__metric": "val.los"}, "there is no metric 'val.los'; did you mean 'val.loss'"),
    ({"search__metric": "val.loss"}, "search: mode: max would look for the worst val.loss; set"),
    ({"search__mode": "min"}, "mode: min would look for the worst val.accuracy; set mode: max"),
    ({"search__trails": 3}, "unknown key 'search.trails'; did you mean 'trials'?"),
    ({"search": {"kind": "random"}}, "'search.trials' is missing"),
    ({"search__trials": 0}, "'search.trials' is 0; input should be greater than 0"),
    ({"search": {"kind": "gird"}}, "'search.kind' is 'gird'; did you mean 'grid'?"),
    ({"search": {"kind": "grid"}}, "'train.optimizer.lr' has no end of values, and search.kind"),
    (
        {"search": {"kind": "grid"}, "space": {"train.seed": {"int_uniform": [0, 2**30]}}},
        "search.kind: grid has 1,073,741,825 trials in this space, more than 10,000",
    ),
    ({"space": RATES}, "search.trials (12) is more than the space's 2 combinations; lower it, or"),
    ({"search": {"kind": "tpe", "trials": 5}}, "search.startup (5) leaves none of 5 trials to tp"),
    ({"warm_start": "x"}, "warm_start has no effect with search.kind: random; use tpe or bohb"),
    (
        {"search": {"kind": "bohb", "trials": 20}, "scheduler": {"kind": "none"}},
        "search.kind: bohb learns from trials that are stopped early; with scheduler.kind: none",
    ),
    ({"scheduler__kind": "ahsa"}, "'scheduler.kind' is 'ahsa'; did you mean 'asha'?"),
    ({"scheduler__grace": 5}, "scheduler.kind: asha has no effect with grace: 5 and base.train"),
    ({"base__train__epochs": 1}, "scheduler.kind: asha has no effect with grace: 1 and base.tra"),
    ({"scheduler": {"kind": "hyperband", "reduction": 5}}, "no effect with reduction: 5"),
    ({"scheduler": {"kind": "median", "grace": 9}}, "scheduler.kind: median has no effect with"),
    ({"scheduler": {"kind": "pbt", "every": 5}, "space": RATES, "search__trials": 2}, "every: 5"),
    ({"scheduler": {"kind": "pbt"}}, "space: 'backbone.freeze' cannot change while a trial"),
    (
        {"scheduler": {"kind": "pbt"}, "space": RATES, "search": {"kind": "grid"}},
        "scheduler.kind: pbt searches by itself from a random population; with search.kind: grid",
    ),
    (
        {"scheduler": {"kind": "pbt"}, "space": RATES, "search__trials": 2},
        "scheduler.quantile (0.25) of 2 trials is less than one; raise search.trials",
    ),
    ({"budget__wall_time_s": 0}, "'budget.wall_time_s' is 0; input should be greater than 0"),
    (
        {"scheduler": {"kind": "hyperband"}, "budget__concurrency": 2},
        "budget.concurrency: 2 does not go with scheduler.kind: hyperband, whose trials wait",
    ),
    ({"budget__concurency": 2}, "unknown key 'budget.concurency'; did you mean 'concurrency'?"),
    ({"best": {"kind": "retrain", "epochs": 5}}, "best.epochs is base.train.epochs; leave it out"),
    ({"base__register": {"model": "x"}}, "base.register has no effect in a sweep; the sweep's o"),
    ({"base__train__epoch": 3}, "unknown key 'base.train.epoch'; did you mean 'epochs'?"),
    ({"base__train__batch_size": 0}, "'base.train.batch_size' is 0; input should be greater"),
    ({"base__scaling": {"workers": 64}}, "base: train.batch_size (32) is smaller than scaling."),
]


@pytest.mark.parametrize(
    ("changes", "said"), SETTINGS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_setting_is_refused_with_what_to_do(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(changes)


def test_every_key_of_a_finetune_spec_is_known() -> None:
    keys = all_keys()
    for key in (
        "backbone.arch",
        "train.optimizer.betas",
        "train.rates.factor",
        "head.hidden",
        "augment.flip",
        "preprocess.crop",
        "train.early_stopping.patience",
    ):
        assert key in keys
    assert "train.unfreeze.epoch" not in keys


def base() -> Finetune:
    return parse_job(document(), "test", Sweep).base


def test_changes_make_a_trial_of_the_types_that_were_written() -> None:
    changes = {"backbone.freeze": -1, "train.optimizer.lr": 1, "train.batch_size": 8}
    spec = trial_spec(base(), changes, "test")
    assert spec.backbone.freeze == -1
    assert isinstance(spec.backbone.freeze, int)
    assert isinstance(spec.train.optimizer.lr, float)
    assert spec.train.batch_size == 8
    assert trial_spec(base(), {"backbone.freeze": "all"}, "test") == base()


def test_a_mapping_replaces_a_section_with_a_kind_and_changes_another() -> None:
    adamw = {"kind": "adamw", "lr": 1e-4}
    spec = trial_spec(base(), {"train.optimizer": adamw, "backbone": {"arch": "vgg16"}}, "test")
    assert spec.train.optimizer.kind == "adamw"
    assert spec.train.optimizer.weight_decay == 1e-2
    assert spec.backbone.arch == "vgg16"
    assert spec.backbone.weights == "imagenet"


def test_a_section_comes_before_its_own_keys() -> None:
    changes = {"head.dropout": 0.1, "head": {"kind": "mlp", "hidden": [8]}}
    head = trial_spec(base(), changes, "test").head
    assert (head.kind, head.dropout, head.hidden) == ("mlp", 0.1, (8,))


def test_a_key_of_a_section_that_is_null_makes_it() -> None:
    assert trial_spec(base(), {"preprocess.crop": 128}, "test").preprocess.crop == 128
    assert trial_spec(base(), {"preprocess": None}, "test").preprocess is None
