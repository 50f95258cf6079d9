"""From a sweep's spec to what Tune schedules with."""

from typing import Any

import ray
from ray import tune
from ray.tune import schedulers

from graft.spec import (
    ASHA,
    PBT,
    HyperBand,
    IntUniform,
    LogUniform,
    MedianStopping,
    Sweep,
    Uniform,
)
from graft.sweep.actor import POINT
from graft.sweep.space import rounded


def concurrency(sweep: Sweep) -> int | None:
    """Return how many trials run at once: as many as fit, so that none waits for another."""
    scaling = sweep.base.scaling
    asked = {"CPU": scaling.cpus_per_worker, "GPU": scaling.gpus_per_worker}
    total = ray.cluster_resources()
    fit = min(
        int(total.get(kind, 0) // (each * scaling.workers)) for kind, each in asked.items() if each
    )
    wanted = sweep.budget.concurrency
    if scaling.workers == 1 and sweep.scheduler.kind in ("hyperband", "pbt"):
        return None  # they compare trials that wait for each other: resources are limit enough
    return max(1, fit if wanted == "auto" else min(fit, wanted))


def make_scheduler(sweep: Sweep) -> Any:
    """Return Tune's scheduler of a spec's; None: every trial trains all its epochs."""
    scheduler, epochs = sweep.scheduler, sweep.base.train.epochs
    common: dict[str, Any] = {
        "metric": "value",
        "mode": sweep.search.mode,
        "time_attr": "training_iteration",
    }
    if isinstance(scheduler, ASHA):
        return schedulers.ASHAScheduler(
            **common,
            max_t=epochs,
            grace_period=scheduler.grace,
            reduction_factor=scheduler.reduction,
        )
    if isinstance(scheduler, HyperBand):
        return schedulers.HyperBandScheduler(
            **common, max_t=epochs, reduction_factor=scheduler.reduction
        )
    if isinstance(scheduler, MedianStopping):
        return schedulers.MedianStoppingRule(
            **common,
            grace_period=scheduler.grace,
            min_samples_required=scheduler.min_trials,
        )

    def explore(config: dict[str, Any]) -> dict[str, Any]:
        point = config[POINT]
        return config | {POINT: point | {"values": _inside(sweep, point["values"])}}

    if isinstance(scheduler, PBT):
        return schedulers.PopulationBasedTraining(
            **common,
            perturbation_interval=scheduler.every,
            quantile_fraction=scheduler.quantile,
            resample_probability=scheduler.resample,
            hyperparam_mutations={POINT: {"values": _domains(sweep)}},
            custom_explore_fn=explore,
        )
    return None


def _inside(sweep: Sweep, values: dict[str, Any]) -> dict[str, Any]:
    """Return mutated values within their ranges: Tune multiplies without looking."""
    found = {}
    for key, value in values.items():
        given = sweep.space[key]
        if isinstance(given, LogUniform | Uniform):
            value = rounded(given, value)
        elif isinstance(given, IntUniform):
            low, high = given.int_uniform
            value = min(max(int(value), low), high)
        found[key] = value
    return found


def _domains(sweep: Sweep) -> dict[str, Any]:
    """Return the values that population-based training draws from, as Tune's domains."""
    domains: dict[str, Any] = {}
    for key, values in sweep.space.items():
        document = values.model_dump()
        if "choice" in document:
            domains[key] = list(document["choice"])
        elif "log_uniform" in document:
            domains[key] = tune.loguniform(*document["log_uniform"])
        elif "uniform" in document:
            domains[key] = tune.uniform(*document["uniform"])
        else:
            domains[key] = tune.randint(document["int_uniform"][0], document["int_uniform"][1] + 1)
    return domains
