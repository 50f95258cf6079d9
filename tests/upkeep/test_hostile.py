"""Whatever a store's documents say, looking after it is an answer, and touches nothing outside."""

import contextlib
import json
import random
from pathlib import Path

import pytest

from graft.errors import InputError
from graft.store import Store
from graft.upkeep.checking import check
from graft.upkeep.collecting import collect, survey
from graft.upkeep.contents import SPEC
from graft.upkeep.copying import Wanted, copy
from graft.upkeep.mending import mend
from graft.upkeep.policy import Policy
from graft.upkeep.references import kind_of
from stores.test_hostile_store import NUMBERS, leaves, value_at, with_value
from upkeep_lab import fill

NAMES = ("..", "../../outside/file", "/etc/passwd", "", "a//b", "a\\b", "a\0b", "x" * 300, "ü", "~")
AT_ONCE = Policy(grace="0s")


def changed(data: bytes, chance: random.Random) -> bytes:
    """Return a document with another text, number or key somewhere in it."""
    document = json.loads(data)
    path = chance.choice(list(leaves(document)))
    is_text = isinstance(value_at(document, path), str)
    value = chance.choice(NAMES if is_text else NUMBERS)
    return json.dumps(with_value(document, path, value)).encode()


@pytest.mark.slow
def test_any_document_may_say_anything(tmp_path: Path, objects: dict[str, bytes]) -> None:
    outside = tmp_path / "outside" / "file"
    outside.parent.mkdir()
    outside.write_bytes(b"theirs")
    store, chance = fill(Store.open(str(tmp_path / "store")), objects), random.Random(0)
    keys = [key for key in sorted(objects) if kind_of(key) or SPEC.fullmatch(key)]
    for number in range(60):
        key = chance.choice(keys)
        before = store.read(key).data
        is_json = key.endswith(".json")
        after = changed(before, chance) if is_json else chance.choice(NAMES).encode()
        store.write(key, after)
        survey(store, AT_ONCE)
        damages = check(store, quick=True).damages
        with contextlib.suppress(InputError):
            target = Store.open(str(tmp_path / f"to-{number}"))
            copy(store, target, Wanted(), quick=True)
        if number % 3 == 0:
            with contextlib.suppress(InputError):
                mend(store, damages)
            with contextlib.suppress(InputError):
                collect(store, AT_ONCE, lambda done, total: None)
            fill(store, objects)
        store.write(key, before)
        assert outside.read_bytes() == b"theirs"
        assert {path.name for path in tmp_path.iterdir()} <= {
            *("outside", "store"),
            *(f"to-{n}" for n in range(60)),
        }
