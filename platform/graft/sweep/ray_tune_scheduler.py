"""From a sweep's spec to Tune's scheduler and its number of concurrent trials."""

from typing import Any, assert_never

import ray
from ray import tune
from ray.tune import schedulers
from ray.tune.experiment import Trial as TuneTrial

from graft.spec import (
    ASHA,
    PBT,
    Choice,
    HyperBand,
    IntUniform,
    LogUniform,
    MedianStopping,
    NoScheduler,
    Range,
    Sweep,
)
from graft.sweep.ray_tune_actor import ASSIGNMENT, EPOCH, TRIAL, VALUES
from graft.sweep.space import into_range
from graft.sweep.trial_checkpoint import KEEPING


def concurrency(sweep: Sweep) -> int | None:
    """Return how many trials may run at once; None: no limit but Ray's resources.

    That is `budget.concurrency`, and no more than the connected Ray has resources for.
    """
    scaling = sweep.base.scaling
    if scaling.workers == 1 and sweep.scheduler.kind in ("hyperband", "pbt"):
        return None  # these compare trials that wait for each other: a limit could block them
    per_worker = {"CPU": scaling.cpus_per_worker, "GPU": scaling.gpus_per_worker}
    total = ray.cluster_resources()
    fitting = min(
        int(total.get(kind, 0) // (amount * scaling.workers))
        for kind, amount in per_worker.items()
        if amount
    )
    limit = sweep.budget.concurrency
    return max(1, fitting if limit == "auto" else min(fitting, limit))


def make_scheduler(sweep: Sweep) -> Any:
    """Return Tune's scheduler for a sweep; None: every trial trains all its epochs."""
    scheduler, epochs = sweep.scheduler, sweep.base.train.epochs
    # Whoever pauses and copies trials counts Tune's own steps.
    counted = EPOCH if scheduler.kind in KEEPING else "training_iteration"
    common: dict[str, Any] = {
        "metric": "value",
        "mode": sweep.search.mode,
        "time_attr": counted,
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
        # Tune multiplies numbers, and ignores the bounds of their ranges.
        assignment = config[ASSIGNMENT]
        mutated = assignment[VALUES].items()
        values = {key: into_range(sweep.space[key], value) for key, value in mutated}
        return config | {ASSIGNMENT: assignment | {VALUES: values}}

    if isinstance(scheduler, PBT):
        domains = {key: _domain(values) for key, values in sweep.space.items()}
        return _Population(
            **common,
            perturbation_interval=scheduler.every,
            quantile_fraction=scheduler.quantile,
            resample_probability=scheduler.resample,
            hyperparam_mutations={ASSIGNMENT: {VALUES: domains}},
            custom_explore_fn=explore,
        )
    if not isinstance(scheduler, NoScheduler):
        assert_never(scheduler)
    return None


class _Population(schedulers.PopulationBasedTraining):  # type: ignore[misc]
    """Population-based training in which a trial takes over weights and values, and stays itself.

    Tune copies another trial's whole config, and with it the number that it is recorded by.
    """

    def _get_new_config(
        self, trial: TuneTrial, trial_to_clone: TuneTrial
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the config of `trial` after the exchange, and what was done to its values."""
        config, operations = super()._get_new_config(trial, trial_to_clone)
        ours = {TRIAL: trial.config[ASSIGNMENT][TRIAL]}
        return config | {ASSIGNMENT: config[ASSIGNMENT] | ours}, operations


def _domain(values: Range) -> Any:
    """Return Tune's domain of a range, which population-based training draws from."""
    if isinstance(values, Choice):
        return list(values.choice)
    if isinstance(values, LogUniform):
        return tune.loguniform(*values.log_uniform)
    if isinstance(values, IntUniform):
        low, high = values.int_uniform
        return tune.randint(low, high + 1)
    return tune.uniform(*values.uniform)
