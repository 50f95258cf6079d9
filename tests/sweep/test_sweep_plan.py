"""The plan: order, trunks, bytes and forecast; by hand, and from a real dataset in a store."""

import pytest

from colours import colour_spec, draw_colours
from graft.data.importing import import_dataset
from graft.errors import SpecError
from graft.spec import Sweep, parse_job
from graft.store import Store
from graft.sweep.prepare_sweep import TrialResolver, prepare_sweep
from graft.sweep.space import grid
from graft.sweep.sweep_plan import (
    Cost,
    Facts,
    Resolved,
    Splits,
    StageCost,
    SweepPlan,
    Throughput,
    check_budget,
    make_sweep_plan,
    trial_cost,
    trial_id,
)
from graft.training.prepare_run import Resolver

STAGES = (StageCost("stem", 1.0, 800), StageCost("body", 2.0, 400), StageCost("end", 4.0, 100))
SPEED = Throughput(gflops=10.0, images=100.0)


def sweep_of(space, search=None, **base):
    document = colour_spec(**base).model_dump(mode="json", by_alias=True) | {"register": None}
    search = search or {"kind": "grid"}
    sweep = {"kind": "sweep", "name": "s", "base": document, "space": space, "search": search}
    return parse_job(sweep | {"scheduler": {"kind": "none"}}, "test", Sweep)


def facts(depth, lanes=100):
    lanes = lanes if depth == 3 else 0
    splits = Splits(train=20, val=10)
    return Facts(20, 10, STAGES, head_gflops=0.5, depth=depth, lanes=lanes, splits=splits)


def planned(sweep, depths=None, view_sets=1, lanes=100):
    """Plan with made-up facts; `depths`: what the values of backbone.freeze mean."""
    from graft.spec import trial_spec

    depths = depths or {"all": 3, -1: 2, -2: 1, 0: 0}
    trials = []
    for changes in grid(sweep.space):
        spec = trial_spec(sweep.base, changes, "test")
        trials.append(Resolved(changes, spec, facts(depths[spec.backbone.freeze], lanes)))
    return make_sweep_plan(sweep, trials, SPEED, view_sets)


RATES = {"choice": [0.1, 0.01]}
AUGMENT = {"kind": "standard", "views": 2}


def test_trials_that_share_a_trunk_are_together_and_the_shallower_first():
    space = {"train.optimizer.lr": RATES, "backbone.freeze": {"choice": ["all", -2, 0, -1]}}
    plan = planned(sweep_of(space))
    order = [(t.changes["backbone.freeze"], t.changes["train.optimizer.lr"]) for t in plan.trials]
    depths = [0, -2, -1, "all"]
    assert order == [(freeze, rate) for freeze in depths for rate in (0.1, 0.01)]
    assert [trial.number for trial in plan.trials] == list(range(1, 9))
    assert [trial.trunk for trial in plan.trials] == [None, None, 1, 1, 2, 2, 3, 3]
    assert [trunk.trials for trunk in plan.trunks] == [(3, 4), (5, 6), (7, 8)]
    assert [trunk.parent for trunk in plan.trunks] == [None, 1, 2]
    assert [trunk.through for trunk in plan.trunks] == ["stem", "body", "end"]
    assert plan.trial(3).changes["backbone.freeze"] == -2


def test_bytes_are_images_times_views_times_activations():
    # 10 for validation; 20 for training, in 2 views.
    plan = planned(sweep_of({"backbone.freeze": {"choice": ["all", -1]}}, augment=AUGMENT))
    assert [trunk.images for trunk in plan.trunks] == [50, 50]
    assert [trunk.bytes for trunk in plan.trunks] == [50 * 400, 50 * 100]
    assert plan.bytes == 50 * 500


@pytest.mark.parametrize(
    ("augment", "images"),
    [
        ({"kind": "none"}, 10 + 20),
        ({"kind": "standard", "views": 5}, 10 + 3 * 20),  # 3 epochs see 3 of them
        ({"kind": "standard", "views": "live"}, 10 + 3 * 20),
    ],
)
def test_as_many_views_as_the_epochs_see(augment, images):
    plan = planned(sweep_of({"backbone.freeze": {"choice": ["all"]}}, augment=augment))
    assert plan.trunks[0].images == images


def test_other_pixels_are_other_activations_of_one_trunk():
    space = {"augment.seed": {"choice": [0, 1]}, "backbone.freeze": {"choice": ["all", -1]}}
    plan = planned(sweep_of(space, augment=AUGMENT))
    assert [trunk.images for trunk in plan.trunks] == [10 + 2 * 2 * 20] * 2
    assert [trunk.trials for trunk in plan.trunks] == [(1, 2), (3, 4)]


def test_a_trunk_begins_where_the_one_before_ends():
    plan = planned(sweep_of({"backbone.freeze": {"choice": ["all", -1]}}, augment=AUGMENT))
    # 50 images decoded, and through stem and body; then the last stage alone.
    assert plan.trunks[0].seconds == pytest.approx(50 / 100 + 50 * 3 / 10)
    assert plan.trunks[1].seconds == pytest.approx(50 * 4 / 10)


def test_the_cost_of_a_trial_by_hand():
    spec = colour_spec(train__epochs=3)
    train, val = 3 * 20, 4 * 10
    uncached = trial_cost(spec, facts(2), cached=False)
    assert uncached.images == train + val
    assert uncached.gflops == pytest.approx((train + val) * 3 + (3 * train + val) * 4.5)
    cached = trial_cost(spec, facts(2), cached=True)
    assert (cached.images, cached.gflops) == (0, pytest.approx((3 * train + val) * 4.5))
    assert trial_cost(spec, facts(0), cached=True) == trial_cost(spec, facts(0), cached=False)
    assert uncached.seconds(SPEED) == uncached.images / 100 + uncached.gflops / 10


def test_the_forecast_is_the_sum_of_its_parts():
    plan = planned(sweep_of({"train.optimizer.lr": RATES}, backbone__freeze="all"))
    spec = plan.trials[0].spec
    alone = trial_cost(spec, facts(3), cached=True).seconds(SPEED)
    assert plan.cached_s == pytest.approx(plan.trunks[0].seconds + 2 * alone)
    # The shortest trial's activations are computed once and read ever after.
    assert plan.trial_s == plan.trunks[0].seconds + alone
    uncached = trial_cost(spec, facts(3), cached=False).seconds(SPEED)
    assert plan.uncached_s == pytest.approx(2 * uncached)
    assert plan.trial_s < uncached


@pytest.mark.parametrize("off", [{"cache": "off"}, {"train__mixup_alpha": 0.2}])
def test_a_trial_that_reads_no_cache_has_no_trunk(off):
    plan = planned(sweep_of({"train.optimizer.lr": RATES}, backbone__freeze="all", **off))
    assert plan.trunks == ()
    assert plan.cached_s == plan.uncached_s


def test_heads_that_differ_in_rates_alone_are_a_batch():
    space = {
        "backbone.freeze": {"choice": ["all", -1]},
        "train.label_smoothing": {"choice": [0, 0.1]},
        "train.optimizer.lr": RATES,
        "train.optimizer.weight_decay": {"choice": [0, 1e-4]},
    }
    plan = planned(sweep_of(space))
    assert plan.batches == ((9, 10, 11, 12), (13, 14, 15, 16))
    smoothing = [plan.trial(n).changes["train.label_smoothing"] for n in plan.batches[1]]
    assert smoothing == [0.1] * 4


def test_trials_of_several_workers_are_no_batch():
    space = {"train.optimizer.lr": RATES}
    sweep = sweep_of(space, backbone__freeze="all", scaling={"workers": 2})
    assert planned(sweep).batches == ()


def test_a_batch_has_as_many_heads_as_memory_has_room_for():
    rates = {"train.optimizer.lr": {"choice": [0.5, 0.4, 0.3, 0.2, 0.1]}}
    sweep = sweep_of(rates, backbone__freeze="all")
    assert planned(sweep, lanes=3).batches == ((1, 2, 3), (4, 5))
    assert planned(sweep, lanes=2).batches == ((1, 2), (3, 4))  # the last is trained alone
    assert planned(sweep, lanes=1).batches == ()


def test_another_seed_is_another_batch_and_of_random_weights_another_trunk():
    space = {"train.seed": {"choice": [0, 1]}, "train.optimizer.lr": RATES}
    plan = planned(sweep_of(space, backbone={"arch": "vgg16", "freeze": "all"}))
    assert plan.batches == ((1, 2), (3, 4))
    assert len(plan.trunks) == 1
    plan = planned(sweep_of(space, backbone__freeze="all"))
    assert len(plan.trunks) == 2


def test_where_trials_are_not_known_the_plan_is_a_bound():
    search = {"kind": "tpe", "trials": 6, "startup": 2}
    space = {"backbone.freeze": {"choice": ["all", -1]}, "train.optimizer.lr": RATES | {}}
    sweep = sweep_of(space | {"train.seed": {"int_uniform": [0, 9]}}, search, augment=AUGMENT)
    narrow = sweep.model_copy(update={"space": {"backbone.freeze": sweep.space["backbone.freeze"]}})
    plan = planned(narrow, view_sets=3)
    assert (plan.count, plan.trials, plan.batches) == (6, (), ())
    assert [trunk.trials for trunk in plan.trunks] == [(), ()]
    assert plan.trunks[0].images == 10 + 3 * 2 * 20
    assert plan.cached_s <= plan.uncached_s


def test_a_plan_reads_back_the_same():
    plan = planned(sweep_of({"train.optimizer.lr": RATES, "backbone.freeze": {"choice": [-1, 0]}}))
    assert SweepPlan.model_validate_json(plan.model_dump_json(by_alias=True)) == plan


def test_a_trials_id_is_of_what_it_trains():
    spec = colour_spec()
    assert trial_id(colour_spec(name="other", cache="off")) == trial_id(spec)
    assert trial_id(colour_spec(train__checkpoint={"every": "3 steps"})) == trial_id(spec)
    assert trial_id(colour_spec(train__seed=1)) != trial_id(spec)


def test_a_budget_too_small_for_one_trial():
    sweep = sweep_of({"train.optimizer.lr": RATES})
    plan = planned(sweep)
    for seconds, fits in ((plan.trial_s / 3, False), (plan.trial_s, True), (None, True)):
        budget = sweep.budget.model_copy(update={"wall_time_s": seconds})
        limited = sweep.model_copy(update={"budget": budget})
        if fits:
            check_budget(limited, plan)
        else:
            with pytest.raises(SpecError, match=r"wall_time_s \(.*\) is too small for one trial"):
                check_budget(limited, plan)


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    store = Store.open(str(folder / "store"))
    import_dataset(store, str(draw_colours(folder / "images")), "colours", test_fraction=0)
    return store


def test_facts_are_found_in_the_store_and_in_the_network(colours):
    changes = {"backbone.freeze": -3, "train.batch_size": 4}
    resolved = TrialResolver(colours, colour_spec()).resolve(changes)
    assert resolved.spec.dataset.version != "latest"
    assert resolved.spec.train.batch_size == 4
    facts = resolved.facts
    assert (facts.train, facts.val, facts.depth, facts.lanes) == (39, 15, 6, 0)
    assert [stage.name for stage in facts.stages][-1] == "fire9"
    # fire6's end: 384 channels, the 32 pixels three times halved, less the convolution's edge.
    assert facts.stages[5].bytes == 4 * 384
    # The head has the dataset's 3 classes: 512 x 3 multiply-adds for its one position.
    assert facts.head_gflops == pytest.approx(512 * 3 / 1e9)


def test_trials_that_differ_in_rates_alone_prepare_one_run(colours, monkeypatch):
    prepared, resolve = [], Resolver.resolve

    def counted(self, spec):
        prepared.append(spec)
        return resolve(self, spec)

    monkeypatch.setattr(Resolver, "resolve", counted)
    space = {"train.optimizer.lr": RATES, "backbone.freeze": {"choice": ["all", -1]}}
    _, plan = prepare_sweep(colours, sweep_of(space), SPEED)
    assert len(prepared) == 2
    assert [trial.spec.train.optimizer.lr for trial in plan.trials] == [0.1, 0.01] * 2
    assert plan.batches == ((3, 4),)


def test_the_trunk_of_gradual_unfreezing_is_what_stays_frozen(colours):
    unfreeze = [{"epoch": 2, "freeze": -2}, {"epoch": 3, "freeze": -3}]
    base = colour_spec(backbone__freeze="all")
    resolved = TrialResolver(colours, base).resolve({"train.unfreeze": unfreeze})
    assert resolved.facts.depth == 6


def test_the_recorded_base_leaves_nothing_open_that_trials_share(colours):
    sweep = sweep_of({"train.optimizer.lr": RATES}, preprocess=None)
    recorded, plan = prepare_sweep(colours, sweep)
    assert recorded.base.dataset.version == plan.trials[0].spec.dataset.version != "latest"
    assert recorded.base.preprocess is not None
    assert recorded.space == sweep.space
    assert plan.throughput.gflops > 0
    archs = {"backbone.arch": {"choice": ["squeezenet1_1", "resnet18"]}}
    recorded, _ = prepare_sweep(colours, sweep_of(archs, preprocess=None), SPEED)
    assert recorded.base.preprocess is None


def test_rates_by_stage_are_for_the_trials_that_train_stages(colours):
    space = {
        "backbone.freeze": {"choice": ["all", -1]},
        "train.rates.factor": {"choice": [0.5, 0.25]},
    }
    rates = {"kind": "decay", "factor": 0.5}
    _, plan = prepare_sweep(colours, sweep_of(space, train__rates=rates), SPEED)
    kinds = {trial.changes["backbone.freeze"]: trial.spec.train.rates.kind for trial in plan.trials}
    assert kinds == {"all": "uniform", -1: "decay"}
    # One that freezes all at first trains stages later, at their rates.
    unfreeze = [{"epoch": 2, "freeze": -2}]
    base = colour_spec(train__rates=rates, train__unfreeze=unfreeze, backbone__freeze=-1)
    trial = TrialResolver(colours, base).resolve({"backbone.freeze": "all"})
    assert trial.spec.train.rates.kind == "decay"
    always = {"train.rates.factor": {"choice": [0.5, 0.25]}}
    with pytest.raises(SpecError, match=r"train\.rates has no effect: the head alone is trained"):
        prepare_sweep(colours, sweep_of(always, backbone__freeze="all", train__rates=rates), SPEED)


def test_every_trunk_that_a_space_can_reach(colours):
    space = {
        "backbone": {"choice": [{"arch": "timm/test_resnet"}, {"arch": "squeezenet1_1"}]},
        "backbone.freeze": {"choice": ["all", -1, 0]},
        "train.optimizer.lr": {"log_uniform": [1e-4, 1]},
        "augment.flip": {"uniform": [0, 1]},
        "train.epochs": {"choice": [2, 4, 3]},
    }
    search = {"kind": "tpe", "trials": 20}
    _, plan = prepare_sweep(colours, sweep_of(space, search, augment=AUGMENT), SPEED)
    assert [(trunk.arch, trunk.through) for trunk in plan.trunks] == [
        ("timm/test_resnet", "layer3"),
        ("timm/test_resnet", "layer4"),
        ("squeezenet1_1", "fire8"),
        ("squeezenet1_1", "fire9"),
    ]
    # Each of 20 trials may flip otherwise.
    assert {trunk.images for trunk in plan.trunks} == {15 + 20 * 2 * 39}


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            {"backbone.freeze": {"choice": ["all", "fire99"]}},
            r"trial \(backbone.freeze fire99\): backbone.freeze: squeezenet1_1 has no stage",
        ),
        ({"backbone.arch": {"choice": ["resnet81"]}}, "unknown architecture 'resnet81'; did you"),
        ({"dataset.version": {"choice": ["f" * 16]}}, "dataset 'colours' has no version"),
    ],
)
def test_a_trial_that_could_not_start_is_refused(colours, space, said):
    from graft.errors import InputError

    with pytest.raises(InputError, match=said):
        prepare_sweep(colours, sweep_of(space), SPEED)


def test_top5_needs_more_than_five_classes(colours):
    search = {"kind": "grid", "metric": "val.top5_accuracy"}
    with pytest.raises(SpecError, match="needs more than 5 classes; 'colours' has 3"):
        prepare_sweep(colours, sweep_of({"train.optimizer.lr": RATES}, search), SPEED)


def test_a_plan_says_what_a_bucket_is_asked_for(colours, s3_store_uri):
    space = {"backbone.freeze": {"choice": ["all", -2]}}
    store = Store.open(s3_store_uri)
    for key, _ in colours.scan(""):
        store.write(key, colours.read(key).data)
    _, here = prepare_sweep(colours, sweep_of(space), SPEED)
    assert (here.requests.writes, here.requests.reads) == (0, 0)
    _, there = prepare_sweep(store, sweep_of(space))
    assert there.throughput.bucket_bytes > 0
    shallow, deep = there.trunks
    assert [trunk.bytes for trunk in there.trunks] == [trunk.bytes for trunk in here.trunks]
    assert shallow.reads > deep.reads > 0  # the images are read once
    assert there.requests.writes == shallow.writes + deep.writes > 20


def test_moving_bytes_counts_where_it_takes_longer():
    work = Cost(images=100, gflops=50, bytes=1e6)
    assert work.seconds(Throughput(gflops=50, images=50)) == 3
    assert work.seconds(Throughput(gflops=50, images=50, bucket_bytes=1e6)) == 3
    assert work.seconds(Throughput(gflops=50, images=50, bucket_bytes=1e5)) == 10
