"""Several models in one app: each under its name, in shared forwards, and one fails by itself."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import commands
from graft.errors import NotFoundError, StoreLost
from graft.registry import promote
from graft.serving.alias_follower import Current, Follower, Polling
from graft.serving.app import create_app
from graft.serving.exchange import Exchange
from graft.serving.shared_trunks import SharedTrunks
from graft.store import ObjectRef, Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, register_model: Callable) -> Store:
    """Two models of one trunk: `ants`, whose champion is version 1, and `bees`, without one."""
    store = Store.open(str(tmp_path_factory.mktemp("served") / "store"))
    for seed, name in enumerate(("ants", "bees")):
        kind = {"freeze": "all", "trunk_seed": 7, "seed": seed, "classes": (f"a {name}", "none")}
        register_model(store, name=name, run=f"run-{name}", **kind)
    promote(store, "ants@1", "champion")
    return store


class Batches:
    """Notes the sizes of the forwards that answers come from, and what they are about."""

    def __init__(self) -> None:
        self.seen: list[tuple[str | None, int]] = []

    def begun(self, exchange: Exchange) -> None: ...

    def ended(self, exchange: Exchange) -> None:
        self.seen.append((exchange.model, exchange.predicted.batch if exchange.predicted else 0))


def followers(store: Store, *refs: str, tails_gb: float = 1.0) -> list[Follower]:
    return Follower.wait_for_some(SharedTrunks(store, tails_gb=tails_gb), refs, Polling())


def ask(app: Any, *requests: tuple[str, str, bytes]) -> list[httpx.Response]:
    """Ask all at once."""

    async def all_at_once() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://graft") as http:
            sent = [http.request(method, path, content=body) for method, path, body in requests]
            return await asyncio.gather(*sent)

    return asyncio.run(all_at_once())


def get(app: Any, path: str) -> Any:
    (answer,) = ask(app, ("GET", path, b""))
    return answer.json()


def predict(name: str, body: bytes) -> tuple[str, str, bytes]:
    return "POST", f"/v1/models/{name}/predict", body


def test_models_answer_under_their_names_and_share_forwards(
    store: Store, photograph: Callable[..., bytes]
) -> None:
    batches = Batches()
    app = create_app(*followers(store, "ants@1", "bees@1"), watchers=[batches])
    names = ["ants", "bees"] * 8
    answers = ask(app, *(predict(name, photograph(n)) for n, name in enumerate(names)))
    assert [answer.json()["model"] for answer in answers] == [f"{name}@1" for name in names]
    for name, answer in zip(names, answers, strict=True):
        shown = {each["class"] for each in answer.json()["predictions"]}
        assert shown == {f"a {name}", "none"}
    # After the first forward the others wait together, of whichever model they are.
    assert max(batch for _, batch in batches.seen) > 2
    assert {model for model, _ in batches.seen} == {"ants", "bees"}

    assert [one["name"] for one in get(app, "/v1/models")["models"]] == ["ants", "bees"]
    assert get(app, "/v1/models/bees")["classes"] == ["a bees", "none"]
    assert get(app, "/healthz") == {"status": "ok", "model": "ants@1, bees@1", "refused": None}
    assert get(app, "/v1/models/bees/stats")["versions"] == {"bees@1": 8}
    (answer,) = ask(app, predict("wasps", b""))
    assert answer.status_code == 404
    assert answer.json()["error"] == "no model 'wasps' here; this server has 'ants', 'bees'"
    assert batches.seen[-1] == (None, 0)
    asyncio.run(app.state.check())


def test_a_404_of_many_models_names_the_nearest(store: Store) -> None:
    (ants,) = followers(store, "ants@1")
    many = [Current(ants.predictor) for _ in range(30)]
    for number, current in enumerate(many):
        current.name = f"model-{number}"
    (answer,) = ask(create_app(*many), predict("modle-17", b""))
    assert answer.status_code == 404
    said = answer.json()["error"]
    assert "this server has 30 models" in said
    assert "'model-17'" in said
    assert len(said) < 300


def test_a_model_without_a_version_waits_for_it_while_others_answer(
    store: Store, photograph: Callable[..., bytes]
) -> None:
    refs = ("ants@champion", "bees@candidate")
    loader = SharedTrunks(store)
    with pytest.raises(NotFoundError, match="'bees' has no version or alias 'candidate'"):
        Follower.wait_for_some(loader, refs, Polling())
    ants, bees = Follower.wait_for_some(loader, refs, Polling(0.01, patience_s=60))
    app = create_app(ants, bees)
    answered, waits = ask(app, predict("ants", photograph(1)), predict("bees", photograph(1)))
    assert (answered.status_code, waits.status_code) == (200, 503)
    assert waits.headers["retry-after"] == "5"
    assert "'bees' cannot answer yet" in waits.json()["error"]
    assert "'bees' has no version or alias 'candidate'" in get(app, "/healthz")["refused"]
    assert [one["name"] for one in get(app, "/v1/models")["models"]] == ["ants"]
    assert bees.look()
    assert not bees.answers
    promote(store, "bees@1", "candidate")
    assert bees.look()
    (answered,) = ask(app, predict("bees", photograph(1)))
    assert answered.json()["model"] == "bees@1"
    assert get(app, "/healthz")["refused"] is None


def test_where_no_model_can_answer_there_is_no_server(store: Store) -> None:
    with pytest.raises(NotFoundError, match="'ants' has no version or alias 'next'"):
        Follower.wait_for_some(
            SharedTrunks(store), ("ants@next", "bees@next"), Polling(0.01, patience_s=0.03)
        )


def test_a_tail_that_cannot_be_loaded_is_a_503_of_its_model_alone(
    store: Store, photograph: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Room for none: each request loads its model's tail.
    app = create_app(*followers(store, "ants@1", "bees@1", tails_gb=1e-9))
    get_shared = Store.get_shared

    def away(self: Store, folder: str, ref: ObjectRef) -> bytes:
        if folder.startswith("models/bees/"):
            raise StoreLost("s3://private/bucket does not answer")
        return get_shared(self, folder, ref)

    monkeypatch.setattr(Store, "get_shared", away)
    answered, failed = ask(app, predict("ants", photograph(1)), predict("bees", photograph(1)))
    assert (answered.status_code, failed.status_code) == (200, 503)
    assert failed.headers["retry-after"] == "5"
    assert "private" not in failed.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which models? Name some, or give --all"),
        (["--all", "ants"], "--all and names: give one of them"),
        (["ants@1", "ants@champion"], "'ants' stands twice"),
        (["ants@1", "bees@1", "--follow"], "--follow ants@1: a version never moves"),
        (["ants", "wasps"], "no model 'wasps' in"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(
    store: Store, words: list[str], message: str
) -> None:
    done = commands.main("serve", *words, "--store", store.uri)
    assert done.returncode == 2
    assert done.stderr.startswith(f"graft: {message}")
