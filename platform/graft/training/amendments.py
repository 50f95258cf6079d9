"""Amendments: what is otherwise, in a run that goes on, than its recorded spec says.

runs/<run>/amendments.json   in their order; the recorded spec stays as it is
"""

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import Field

from graft.errors import ObjectChanged, ObjectExists, ObjectNotFound, SpecError
from graft.spec import Finetune, Section, with_settings
from graft.store import Store, document_bytes, find_document, parse_document
from graft.store.retries import swaps

MAY_CHANGE = ("train.epochs", "scaling.", "loader.")
"""Keys, and beginnings of keys, that may change when a run goes on."""
EXACT = ("train.epochs", "scaling.max_restarts", "scaling.stall_timeout_s", "loader.")
"""Those of them with which the weights are still those of an unbroken run."""


class Amendment(Section):
    """What a person changed when they had a run go on."""

    when: str
    """ISO 8601 in UTC."""
    who: str
    changes: dict[str, str]
    """Values as YAML, by dotted key."""
    hardware: str | None = None
    """The resource class that it goes on with, where that is another one."""

    @property
    def is_exact(self) -> bool:
        """Whether the weights are still those of an unbroken run."""
        return self.hardware is None and all(key.startswith(EXACT) for key in self.changes)

    def __str__(self) -> str:
        hardware = [f"class {self.hardware}"] if self.hardware else []
        return ", ".join(_settings(self.changes) + hardware)


class Amendments(Section):
    """The document."""

    amendments: tuple[Amendment, ...] = Field(default=())


def read_amendments(store: Store, run: str) -> tuple[Amendment, ...]:
    """Return a run's amendments, the first one first."""
    document = find_document(store, _key(run), Amendments)
    return document.amendments if document else ()


def amended(spec: Finetune, amendments: tuple[Amendment, ...]) -> Finetune:
    """Return a recorded spec as it is to be trained on."""
    for amendment in amendments:
        spec = with_settings(spec, _settings(amendment.changes))
    return spec


def new_amendment(
    store: Store,
    run: str,
    spec: Finetune,
    who: str,
    changes: Mapping[str, str],
    hardware: str | None = None,
) -> tuple[Amendment, Finetune]:
    """Return what is to be otherwise, and the spec that results; nothing is recorded.

    Args:
        store: where the run is recorded.
        run: its id.
        spec: as it was recorded.
        who: has it go on.
        changes: values as YAML, by dotted key.
        hardware: the resource class that it goes on with; None: the same.

    Raises:
        SpecError: that cannot change in a run that goes on; the message says what to do.
    """
    before = amended(spec, read_amendments(store, run))
    check_changes(before, changes)
    new = Amendment(
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        who=who,
        changes=dict(changes),
        hardware=hardware,
    )
    return new, amended(before, (new,))


def record_amendment(store: Store, run: str, new: Amendment) -> None:
    """Record what is otherwise from now on; doing so again changes nothing."""
    if not (new.changes or new.hardware):
        return
    recorded = read_amendments(store, run)
    if not (recorded and recorded[-1].model_copy(update={"when": new.when}) == new):
        _append(store, run, new)


def amend_run(
    store: Store, run: str, spec: Finetune, who: str, changes: Mapping[str, str]
) -> Finetune:
    """Record what is otherwise from now on, and return the spec that results.

    Raises:
        SpecError: that cannot change in a run that goes on; the message says what to do.
    """
    new, result = new_amendment(store, run, spec, who, changes)
    record_amendment(store, run, new)
    return result


def check_changes(spec: Finetune, changes: Mapping[str, str]) -> None:
    """Find out whether a run that goes on may change so.

    Raises:
        SpecError: it may not; the message says what to do.
    """
    for key in changes:
        if not key.startswith(MAY_CHANGE):
            raise SpecError(
                f"{key} cannot change in a run that goes on; train.epochs, scaling.* and loader.* "
                "can. Begin a new run from what this one registers, backbone.weights: model://NAME"
            )
    if "train.epochs" not in changes:
        return
    epochs = with_settings(spec, _settings(changes)).train.epochs
    if epochs < spec.train.epochs:
        raise SpecError(
            f"train.epochs={epochs}: a run that goes on has at least its {spec.train.epochs} epochs"
        )
    if spec.train.schedule.kind != "constant" or spec.train.unfreeze:
        reason = "gradual unfreezing" if spec.train.unfreeze else spec.train.schedule.kind
        raise SpecError(
            f"train.epochs={epochs}: with {reason} the epochs that are trained already would have "
            "been others. Begin a new run from what this one registers, "
            "backbone.weights: model://NAME"
        )


def _settings(changes: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in changes.items()]


def _append(store: Store, run: str, amendment: Amendment) -> None:
    key = _key(run)
    turn = swaps(f"{store.uri}/{key}")
    while True:
        next(turn)
        try:
            current = store.read(key)
        except ObjectNotFound:
            with contextlib.suppress(ObjectExists):
                store.create(key, document_bytes(Amendments(amendments=(amendment,))))
                return
            continue
        before = parse_document(store, key, current.data, Amendments).amendments
        data = document_bytes(Amendments(amendments=(*before, amendment)))
        with contextlib.suppress(ObjectChanged):
            store.replace(key, data, current.etag)
            return


def _key(run: str) -> str:
    return f"runs/{run}/amendments.json"
