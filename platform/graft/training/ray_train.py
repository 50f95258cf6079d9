"""Fine-tuning on Ray Train: the workers, and the driver that waits for them.

A worker that dies takes its group with it; Ray Train starts the group again, a bounded
number of times, and the new attempt goes on from the last checkpoint. An error that a
restart would only meet again is left on the board, and every later attempt ends at once.
"""

import contextlib
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.train
from ray.actor import ActorHandle
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.callback import RayTrainCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from graft.backbones.process_setup import set_up_process
from graft.errors import GaveUp, GraftError, Interrupted, ResourceError, RunFailed, StoreError
from graft.own_ray import on_own_ray
from graft.registry import Mover
from graft.spec import Scaling
from graft.store import Store
from graft.training.attempt import run_attempt
from graft.training.events import REPORT_EVERY_S, Board, Event
from graft.training.ray_train_meeting import MeetingTorchConfig
from graft.training.run_records import Result, read_result, read_spec
from graft.training.worker_group import Ranks

PREEMPTED_S = 5.0
"""How long before the end of a node that was told to end workers leave it, in seconds. Ray takes
who is still there when it ends for a failure, if both come in the same millisecond."""


def run_finetune(
    store: Store, run: str, show: Callable[[Event], None], mover: Mover | None = None
) -> Result:
    """Run, or go on with, a recorded run on the connected Ray; return its result.

    Args:
        store: where the run is recorded.
        run: the run's id.
        show: called with what happens, in a thread of its own.
        mover: who moves the alias that the spec names; None: this machine's user.

    Raises:
        ResourceError: the cluster has less than the spec asks for.
        GaveUp: the restarts are used up.
        RunFailed: an attempt met what no restart mends, or workers lack memory.
        Interrupted: Ctrl-C; committed checkpoints stay.
    """
    if done := read_result(store, run):
        return done
    scaling = read_spec(store, run).scaling
    require_resources(scaling)
    board = open_board()
    last: Exception | None = None
    with tempfile.TemporaryDirectory(prefix="graft-train-") as scratch, _shown(board, show):
        # A sweep's trial runs in another thread, which has no handler to restore.
        main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGINT)
        try:
            # Not in a thread of our own: one that still waits for Ray when Ray is shut down ends
            # the process. On Ctrl-C, Ray Train's handler stops the workers and then exits.
            _trainer(store, run, scaling, board, scratch, mover).fit()
        except (KeyboardInterrupt, SystemExit):
            if not read_result(store, run):  # else it was over before it could be stopped
                raise Interrupted(
                    f"stopped; what is committed stays. Go on with: graft runs resume {run}"
                ) from None
        except Exception as error:  # explained below, by what the attempts left
            last = error
        finally:
            if main:
                signal.signal(signal.SIGINT, before)
    result = read_result(store, run)
    if result is None:
        if failure := ray.get(board.failure.remote()):
            raise failure
        if "out of memory" in str(last).lower():
            raise RunFailed(
                f"{run}: a worker was killed for want of memory {scaling.max_restarts + 1} times; "
                "lower train.batch_size or loader.decoded_cache_mb, or give workers more memory "
                f"(in a cluster: their resource class). Then: graft runs resume {run}"
            ) from last
        cause = str(last).strip().rpartition("\n")[2] if last else "no result was published"
        raise GaveUp(
            f"{run}: gave up after {scaling.max_restarts} restarts; the last failure: {cause}. "
            f"Go on from the last checkpoint with: graft runs resume {run}"
        ) from last
    return result


def open_board() -> ActorHandle[Board]:
    """Return a board on the driver's node, which ends with the last reference to it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board: ActorHandle[Board] = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
    return board


@contextlib.contextmanager
def _shown(board: ActorHandle[Board], show: Callable[[Event], None]) -> Iterator[None]:
    """Show the events that come to the board while the block lasts."""
    ended = threading.Event()

    def pass_on() -> None:
        more = True
        while more:
            more = not ended.wait(REPORT_EVERY_S)
            for event in ray.get(board.take.remote()):
                show(event)

    thread = threading.Thread(target=pass_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def require_resources(scaling: Scaling) -> None:
    """Refuse workers that the connected cluster, as it is now, has no room for.

    Raises:
        ResourceError: its nodes have not enough GPUs or CPUs for every worker.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    per_worker = {"GPU": scaling.gpus_per_worker, "CPU": scaling.cpus_per_worker}
    for kind, count in per_worker.items():
        need, available = scaling.workers * count, int(sum(node.get(kind, 0) for node in nodes))
        if need > available:
            raise ResourceError(
                f"scaling asks for {need} {kind}s ({scaling.workers} workers with {count} each), "
                f"the cluster has {available}; lower scaling.workers or "
                f"scaling.{kind.lower()}s_per_worker"
            )
    fit = sum(min(int(node.get(k, 0) // n) for k, n in per_worker.items() if n) for node in nodes)
    if fit < scaling.workers:
        raise ResourceError(
            f"scaling asks for {scaling.workers} workers with {scaling.cpus_per_worker} CPUs and "
            f"{scaling.gpus_per_worker} GPUs each; the cluster's nodes have room for {fit} such "
            "workers; lower scaling.workers or scaling.cpus_per_worker"
        )


def _trainer(
    store: Store,
    run: str,
    scaling: Scaling,
    board: ActorHandle[Board],
    scratch: str,
    mover: Mover | None,
) -> "_Trainer":
    gpu = scaling.gpus_per_worker > 0
    return _Trainer(
        train_worker,
        train_loop_config={
            "store": store.uri,
            "run": run,
            "board": board,
            "started": time.time(),
            "mover": mover or Mover.here("python"),  # this machine's user, not the workers'
        },
        torch_config=MeetingTorchConfig(
            backend="nccl" if gpu else "gloo",
            timeout_s=int(scaling.stall_timeout_s) + 60,  # the watchdog, which explains, is first
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": scaling.cpus_per_worker}
            | ({"GPU": scaling.gpus_per_worker} if gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=run,
            storage_path=scratch,  # Ray Train's own notes; checkpoints go to the store
            failure_config=ray.train.FailureConfig(
                max_failures=scaling.max_restarts, preemption_grace_s=-PREEMPTED_S
            ),
        ),
    )


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray Train's, without what only waits on a Ray of our own."""

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        """Leave out what removes the workers' placement group if the controller is killed.

        It asks the dashboard of the Ray that was last started by `ray start`: where that one is
        dead, it asks for 40 s, and a run or a Ctrl-C waits 12 s for it.
        """
        callbacks: list[RayTrainCallback] = super()._create_default_callbacks()
        if not on_own_ray():
            return callbacks
        return [
            callback
            for callback in callbacks
            if not isinstance(callback, PlacementGroupCleanerCallback)
        ]


def train_worker(config: dict[str, Any]) -> None:
    """Run one attempt in one Ray Train worker."""
    board = config["board"]
    store = Store.open(config["store"])
    if ray.get(board.failure.remote()) or read_result(store, config["run"]):
        return
    scaling = read_spec(store, config["run"]).scaling
    try:
        # Ray Train has made the worker's GPU the current one.
        device = set_up_process(scaling.cpus_per_worker, scaling.gpus_per_worker)
        run_attempt(
            store,
            config["run"],
            Ranks.current(device),
            board.post.remote,
            config["started"],
            config["mover"],
        )
    except StoreError:
        raise  # may be gone when the next attempt tries
    except GraftError as error:
        ray.get(board.fail.remote(error))
        raise
