"""What the driver and Tune's actors tell each other, and who may stop a sweep; without Ray."""

import pickle
import signal

import pytest

from colours import colour_spec
from graft.errors import StoreError
from graft.sweep.ray_tune import SweepStop, _ctrl_c_stops
from graft.sweep.ray_tune_actor import Assignment, TrialUpdate
from graft.sweep.sweep_plan import Trial
from graft.sweep.sweep_records import TrialEpoch
from graft.sweep.trial import Progress

RATE = "train.optimizer.lr"


def test_an_assignment_goes_through_tunes_config():
    spec = colour_spec()
    trial = Trial(number=3, id="0" * 12, changes={RATE: 0.1}, spec=spec, trunk=None)
    assignment = Assignment(trial, {RATE: 0.2})
    assert Assignment.from_config(assignment.to_config()) == assignment


def test_an_update_travels_as_json():
    val = {"loss": 0.1, "accuracy": 2 / 3}
    epoch = TrialEpoch(epoch=1, train=val, val=val)
    update = TrialUpdate(values={RATE: 0.1}, progress=Progress(epochs=(epoch,)), error="boom")
    assert TrialUpdate.model_validate_json(update.model_dump_json()) == update


@pytest.mark.parametrize(
    ("more", "done"),
    [
        ({}, False),
        ({"progress": Progress(ended=True)}, True),
        ({"error": "boom"}, True),
        ({"fatal": "no store"}, True),
    ],
)
def test_a_trial_is_done_when_it_ended_or_failed(more, done):
    assert TrialUpdate(values={}, **more).done == done


def test_a_sweep_stops_for_a_reason():
    stop = SweepStop()
    assert not stop.stop_all()
    stop.raise_reason()
    stop.fatal = StoreError("the store is gone")
    assert stop.stop_all()
    with pytest.raises(StoreError, match="the store is gone"):
        stop.raise_reason()
    stop.interrupted = True  # the user's wish comes first
    with pytest.raises(KeyboardInterrupt):
        stop.raise_reason()


def test_tune_pickles_nothing_of_it():
    stop = SweepStop()
    stop.fatal = StoreError("the store is gone")
    assert vars(pickle.loads(pickle.dumps(stop))) == {}


def test_the_first_ctrl_c_asks_to_stop_and_the_second_one_does_not_wait():
    stop = SweepStop()
    before = signal.getsignal(signal.SIGINT)
    with _ctrl_c_stops(stop):
        signal.raise_signal(signal.SIGINT)
        assert stop.stop_all()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
