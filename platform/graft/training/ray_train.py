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
from types import FrameType
from typing import Any

import ray
import ray.train
from ray.actor import ActorHandle
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.context import get_train_context as _ray_context
from ray.train.v2.api.callback import RayTrainCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from graft.backbones.process_setup import set_up_process
from graft.errors import GaveUp, GraftError, Interrupted, ResourceError, RunFailed, StoreError
from graft.own_ray import on_own_ray
from graft.registry import Mover
from graft.spec import Scaling
from graft.store import Store
from graft.training.attempt import run_attempt
from graft.training.events import REPORT_EVERY_S, Board, Event, Note, Notice
from graft.training.ray_train_meeting import MeetingTorchConfig
from graft.training.run_records import Result, read_result, read_spec
from graft.training.worker_group import Ranks

PREEMPTED_S = 5.0
"""How long before the end of a node that was told to end workers leave it, in seconds. Ray takes
who is still there when it ends for a failure, if both come in the same millisecond."""
STOP_S = 20.0
"""How long a run that is stopped may take for its last checkpoint, in seconds."""
TOLD_EVERY_S = 2.0
"""How often a driver asks whether its pod was told to end, in seconds."""


def run_finetune(
    store: Store,
    run: str,
    show: Callable[[Event], None],
    mover: Mover | None = None,
    told_to_end: Callable[[], bool] | None = None,
) -> Result:
    """Run, or go on with, a recorded run on the connected Ray; return its result.

    A first Ctrl-C, SIGTERM or SIGHUP in the middle of an epoch has the workers make a checkpoint
    before they end.

    Args:
        store: where the run is recorded.
        run: the run's id.
        show: called with what happens, in a thread of its own.
        mover: who moves the alias that the spec names; None: this machine's user.
        told_to_end: whether this process's pod was told to end, asked now and then in a thread;
            checkpoints are then made all the time.

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
    stop = _Stop(board, show)
    with (
        tempfile.TemporaryDirectory(prefix="graft-train-") as scratch,
        _shown(board, show, told_to_end),
        stop.until_over(),
    ):
        try:
            # Not in a thread of our own: one that still waits for Ray when Ray is shut down ends
            # the process.
            _trainer(store, run, scaling, board, scratch, mover, stop).fit()
            stop.raise_signal()
        except (KeyboardInterrupt, SystemExit):
            stop.pass_on()
            if not read_result(store, run):  # else it was over before it could be stopped
                raise Interrupted(
                    f"stopped; what is committed stays. Go on with: graft runs resume {run}"
                ) from None
        except Exception as error:  # explained below, by what the attempts left
            last = error
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
def _shown(
    board: ActorHandle[Board],
    show: Callable[[Event], None],
    told_to_end: Callable[[], bool] | None,
) -> Iterator[None]:
    """Show the events that come to the board during the block, and tell it of the pod's end."""
    ended = threading.Event()

    def pass_on() -> None:
        more, asked = True, 0.0
        while more:
            more = not ended.wait(REPORT_EVERY_S)
            for event in ray.get(board.take.remote()):
                show(event)
            if told_to_end and time.monotonic() - asked > TOLD_EVERY_S:
                asked = time.monotonic()
                with contextlib.suppress(StoreError):  # asked again soon
                    if told_to_end():
                        board.notify.remote(Notice.LEAVING)

    thread = threading.Thread(target=pass_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _Stop:
    """What signals do to a run: the first one has workers make a checkpoint and end.

    One that comes where there is nothing to save, and a second one, abort the run.
    """

    def __init__(self, board: ActorHandle[Board], show: Callable[[Event], None]):
        self._board, self._show = board, show
        self._abort: Callable[[int, FrameType | None], object] = signal.default_int_handler
        self._before: dict[int, Any] = {}
        """Handlers of before, by signal."""
        self._came: int | None = None
        """The first signal."""
        self._patience = threading.Timer(STOP_S, signal.raise_signal, [signal.SIGINT])
        self._patience.daemon = True

    @contextlib.contextmanager
    def until_over(self) -> Iterator[None]:
        """Give signals back their handlers after the block."""
        # A sweep's trial runs in another thread, which has no handlers to restore.
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            handlers = {number: signal.getsignal(number) for number in numbers}
            self._before = {n: handler for n, handler in handlers.items() if handler is not None}
        try:
            yield
        finally:
            self._patience.cancel()
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def take_over(self) -> None:
        """Hear signals from now on; Ray Train's handler of SIGINT aborts the run."""
        abort = signal.getsignal(signal.SIGINT)
        if callable(abort):
            self._abort = abort
        for number, handler in self._before.items():
            if handler != signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, self._hear)

    def raise_signal(self) -> None:
        """Raise KeyboardInterrupt if a signal has ended the run in good order."""
        if self._came is not None:
            raise KeyboardInterrupt

    def pass_on(self) -> None:
        """Let the handler of before, which does not know yet, have the signal that came."""
        handler = self._before.get(self._came or 0)
        if callable(handler):
            with contextlib.suppress(KeyboardInterrupt):
                handler(self._came, None)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        first, self._came = self._came is None, self._came or number
        if first and ray.get(self._board.is_inside.remote()):
            self._board.notify.remote(Notice.STOP)
            self._patience.start()
            self._show(Note("stopping after a checkpoint; once more stops at once"))
        else:
            self._abort(number, frame)


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
    stop: _Stop,
) -> "_Trainer":
    gpu = scaling.gpus_per_worker > 0
    trainer = _Trainer(
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
    trainer.stop = stop
    return trainer


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray Train's, without what only waits on a Ray of our own, and with our way to stop."""

    stop: _Stop

    def _register_sigint_handler(self, controller: ActorHandle[Any]) -> None:
        """Put our handler before theirs, which aborts at once."""
        super()._register_sigint_handler(controller)
        self.stop.take_over()

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
            _notice(board, ray.train.get_context().get_world_rank()),
        )
    except Interrupted:
        return  # as it was told to
    except StoreError:
        raise  # may be gone when the next attempt tries
    except GraftError as error:
        ray.get(board.fail.remote(error))
        raise


def _notice(board: ActorHandle[Board], rank: int) -> Callable[[], Notice]:
    """Return what tells a worker of its end: Ray of its nodes', the driver of the run's."""

    def notice() -> Notice:
        drivers = ray.get(board.notice.remote()) if rank == 0 else Notice.NONE
        # Not `ray.train.get_preemption_info`, a barrier of all workers: they meet already.
        leaving = _ray_context().preemption_context.preemption_info is not None
        return max(drivers, Notice.LEAVING) if leaving else drivers

    return notice
