"""Model versions are immutable, numbered without gaps, and found by number, alias or name."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.errors import InputError, NotFoundError, RunFailed, StoreError
from graft.registry import (
    Alias,
    Lineage,
    ModelDraft,
    ModelVersion,
    Mover,
    Verdict,
    VersionRow,
    alias_history,
    aliases,
    get_model,
    list_models,
    list_versions,
    promote,
    promote_new,
    record_verdict,
    register,
)
from graft.spec import Contract, LinearHead
from graft.store import Store, read_document


@pytest.fixture
def directory(tmp_path: Path) -> Store:
    """An empty store where it does not matter which kind it is."""
    return Store.open(str(tmp_path))


def draft(run: str, name: str = "ants-bees") -> ModelDraft:
    return ModelDraft(
        name=name,
        arch="squeezenet1_1",
        head=LinearHead(),
        dropout=None,
        classes=("ants", "bees"),
        contract=Contract(max_side=640),
        freeze=2,
        stages=(32 * "c1", 32 * "c2"),
        trunk_digest=32 * "c2",
        metrics={"val": {"accuracy": 0.93, "loss": 0.2}},
        weights="best",
        epoch=3,
        lineage=Lineage(
            run=run,
            dataset="ants-bees",
            dataset_version="v1",
            spec={"kind": "finetune"},
            weights="imagenet",
            weights_sha256=None,
            packages={"torch": "2.15.0"},
            git_commit=None,
        ),
    )


def test_a_registered_version_reads_back_with_its_payloads(store: Store) -> None:
    version = register(store, draft("run-1"), tail=b"tail", golden=b"golden")
    assert version.ref == "ants-bees@1"
    found = get_model(store, "ants-bees")
    assert found == version
    assert store.get(found.folder, found.tail) == b"tail"
    assert store.get(found.folder, found.golden) == b"golden"
    assert found.lineage == draft("run-1").lineage


def test_a_run_registers_once(directory: Store) -> None:
    first = register(directory, draft("run-1"), b"tail", b"golden")
    other = register(directory, draft("run-2"), b"other", b"golden")
    assert other.version == 2
    assert register(directory, draft("run-1"), b"tail", b"golden") == first
    assert list_models(directory) == {"ants-bees": [VersionRow.of(first), VersionRow.of(other)]}


@pytest.mark.slow
def test_racing_runs_get_a_number_each_and_leave_nothing_behind(fencing_store: Store) -> None:
    start = threading.Barrier(4)

    def race(i: int) -> None:
        start.wait()
        register(fencing_store, draft(f"run-{i}"), f"tail {i}".encode(), b"golden")

    threads = [threading.Thread(target=race, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    rows = list_versions(fencing_store, "ants-bees")
    versions = [get_model(fencing_store, f"ants-bees@{row.version}") for row in rows]
    assert [version.version for version in versions] == [1, 2, 3, 4]
    assert {version.lineage.run for version in versions} == {f"run-{i}" for i in range(4)}
    committed = {f"{v.folder}/{ref.name}" for v in versions for ref in (v.tail, v.golden)}
    assert {key for key, _ in fencing_store.scan("models/") if ".safetensors" in key} == committed


def test_racing_attempts_of_one_run_register_one_version(fencing_store: Store) -> None:
    start = threading.Barrier(3)
    found = []

    def race() -> None:
        start.wait()
        found.append(register(fencing_store, draft("run-1"), b"tail", b"golden"))

    threads = [threading.Thread(target=race) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list_versions(fencing_store, "ants-bees") == [VersionRow.of(found[0])]
    assert found == [found[0]] * 3


def test_payloads_without_a_marker_are_no_version(directory: Store) -> None:
    directory.put("models/ants-bees/versions/1", "tail.safetensors", b"killed here")
    assert list_models(directory) == {}
    with pytest.raises(NotFoundError):
        get_model(directory, "ants-bees")
    assert register(directory, draft("run-1"), b"tail", b"golden").version == 1


def test_a_bare_name_is_the_newest_until_there_is_a_champion(directory: Store) -> None:
    for i in range(11):
        register(directory, draft(f"run-{i}"), b"tail", b"golden")
    assert get_model(directory, "ants-bees").version == 11
    promote(directory, "ants-bees@2", "champion")
    assert get_model(directory, "ants-bees").version == 2
    assert get_model(directory, "ants-bees@champion").version == 2
    assert get_model(directory, "ants-bees@10").version == 10


def test_an_alias_remembers_its_moves(store: Store) -> None:
    for i in range(2):
        register(store, draft(f"run-{i}"), b"tail", b"golden")
    promote(store, "ants-bees@1", "candidate")
    promote(store, "ants-bees@2", "candidate")
    promote(store, "ants-bees@2", "candidate")
    promote(store, "ants-bees@candidate", "champion")
    assert aliases(store, "ants-bees") == {"candidate": 2, "champion": 2}
    history = read_document(store, "models/ants-bees/aliases/candidate.json", Alias).history
    assert [(move.from_, move.to) for move in history] == [(None, 1), (1, 2)]


ANN = Mover("ann@laptop", "graft train")


def registered(store: Store, run: str, fence: Callable[[], object] = lambda: None) -> ModelVersion:
    """Register a run's version, as a spec with `alias: champion` does."""

    def move(version: ModelVersion) -> None:
        promote_new(store, version, "champion", ANN, fence)

    return register(store, draft(run), b"tail", b"golden", fence, move)


def test_a_registration_moves_an_alias_once_and_never_back(directory: Store) -> None:
    first = registered(directory, "run-1")
    registered(directory, "run-2")
    registered(directory, "run-1")  # a resume
    assert aliases(directory, "ants-bees") == {"champion": 2}
    # A process that slept since it registered its version.
    (said,) = promote_new(directory, first, "champion", ANN, lambda: None)
    assert said == "champion stays at ants-bees@2, which is newer"
    assert aliases(directory, "ants-bees") == {"champion": 2}


def resume(store: Store, number: int) -> list[str]:
    """Move the champion for a version that an earlier attempt has registered."""
    version = get_model(store, f"ants-bees@{number}")
    return promote_new(store, version, "champion", ANN, lambda: None, resumed=True)


def test_a_resume_moves_an_alias_that_nobody_has_moved_since(directory: Store) -> None:
    for i in range(4):
        register(directory, draft(f"run-{i}"), b"tail", b"golden")
    assert resume(directory, 1) == []
    assert aliases(directory, "ants-bees") == {"champion": 1}
    promote(directory, "ants-bees@3", "champion", ANN)
    promote(directory, "ants-bees@1", "champion", ANN)  # a person goes back
    for number in (2, 3, 4):  # it passed @2 and left @3, and @4 was made before it went back
        (said,) = resume(directory, number)
        assert said.startswith("champion stays at ants-bees@1: it has been moved since")
    register(directory, draft("run-5"), b"tail", b"golden")
    resume(directory, 5)
    assert aliases(directory, "ants-bees") == {"champion": 5}


def test_who_was_overtaken_registers_nothing_and_moves_nothing(directory: Store) -> None:
    def overtaken() -> None:
        raise RunFailed("overtaken")

    with pytest.raises(RunFailed):
        registered(directory, "run-1", overtaken)
    assert list_models(directory) == {}
    version = registered(directory, "run-2")
    register(directory, draft("run-3"), b"tail", b"golden")
    with pytest.raises(RunFailed):
        promote_new(directory, get_model(directory, "ants-bees@2"), "champion", ANN, overtaken)
    assert get_model(directory, "ants-bees@champion") == version


def test_an_alias_that_moved_during_the_check_is_checked_again(fencing_store: Store) -> None:
    """What was checked against one champion does not follow another."""
    for i in range(3):
        register(fencing_store, draft(f"run-{i}"), b"tail", b"golden")
    promote(fencing_store, "ants-bees@1", "champion")
    worse = Verdict(
        against="ants-bees@2", outcome="worse", p_value=0.01, why="70 % of 90", report="r"
    )
    record_verdict(fencing_store, get_model(fencing_store, "ants-bees@3"), worse)

    def meanwhile() -> None:
        promote(fencing_store, "ants-bees@2", "champion")

    version = get_model(fencing_store, "ants-bees@3")
    with pytest.raises(InputError, match="worse than ants-bees@2"):
        promote_new(fencing_store, version, "champion", ANN, meanwhile)
    assert aliases(fencing_store, "ants-bees") == {"champion": 2}


def test_every_move_says_who_how_and_on_what_evidence(directory: Store) -> None:
    for i in range(4):
        register(directory, draft(f"run-{i}"), b"tail", b"golden")
    for number, outcome in ((2, "better"), (3, "worse")):
        verdict = Verdict(
            against="ants-bees@1", outcome=outcome, p_value=0.01, why="70 % of 90", report="r"
        )
        record_verdict(directory, get_model(directory, f"ants-bees@{number}"), verdict)
    promote(directory, "ants-bees@1", "champion", ANN)
    promote(directory, "ants-bees@2", "champion", ANN)
    promote(directory, "ants-bees@1", "champion", ANN, force=True)
    with pytest.raises(InputError, match="worse than ants-bees@1"):
        promote(directory, "ants-bees@3", "champion", ANN)
    promote(directory, "ants-bees@3", "champion", ANN, force=True)
    moves = alias_history(directory, "ants-bees")
    assert [(alias, move.to, move.basis) for alias, move in moves] == [
        ("champion", 1, "unproven"),
        ("champion", 2, "shown"),
        ("champion", 1, "unproven"),
        ("champion", 3, "forced"),
    ]
    assert {(move.who, move.self_declared, move.command) for _, move in moves} == {
        ("ann@laptop", True, "graft train")
    }
    assert moves[1][1].evidence == ("better, against ants-bees@1: 70 % of 90 (r)",)


def test_what_an_earlier_release_showed_without_correction_shows_nothing(directory: Store) -> None:
    for i in range(4):
        register(directory, draft(f"run-{i}"), b"tail", b"golden")
    promote(directory, "ants-bees@1", "champion", ANN)
    for number, outcome in ((2, "worse"), (3, "better"), (4, "better")):
        version = get_model(directory, f"ants-bees@{number}")
        earlier = {"against": "ants-bees@1", "outcome": outcome, "why": "70 % of 90", "report": "r"}
        directory.create(f"{version.folder}/verdicts/r.json", json.dumps(earlier).encode())
    again = Verdict.model_validate(earlier | {"against": "ants-bees@3", "p_value": 0.01})
    record_verdict(directory, version, again)  # the same report, by this release
    for number, outcome in ((2, "worse"), (3, "better")):
        said = promote(directory, f"ants-bees@{number}", "champion", ANN, force=False)
        if number == 2:
            promote(directory, "ants-bees@1", "champion", ANN)
        assert f"it was called {outcome} by a release that did not correct" in said[0]
    assert promote(directory, "ants-bees@4", "champion", ANN) == []
    bases = [(move.to, move.basis) for _, move in alias_history(directory, "ants-bees")]
    assert bases == [*((n, "unproven") for n in (1, 2, 1, 3)), (4, "shown")]


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("ants-beas", "did you mean 'ants-bees'"),
        ("ants-bees@7", "no version or alias '7'; known: champion, 1"),
        ("ants-bees@champoin", "did you mean 'champion'"),
        ("ants-bees@", "no version or alias ''"),
        ("../models/ants-bees", "no model"),
    ],
)
def test_an_unknown_reference_names_the_nearest(directory: Store, ref: str, message: str) -> None:
    register(directory, draft("run-1"), b"tail", b"golden")
    promote(directory, "ants-bees@1", "champion")
    with pytest.raises(NotFoundError) as error:
        get_model(directory, ref)
    assert message in str(error.value)


def test_an_alias_cannot_look_like_a_version(directory: Store) -> None:
    register(directory, draft("run-1"), b"tail", b"golden")
    for alias in ("3", "Champion", "a/b", ""):
        with pytest.raises(InputError, match="expected lower-case"):
            promote(directory, "ants-bees@1", alias)
    assert aliases(directory, "ants-bees") == {}


def test_a_version_from_a_newer_release_is_refused_in_one_line(directory: Store) -> None:
    version = register(directory, draft("run-1"), b"tail", b"golden")
    document = version.model_dump_json().replace('"epoch"', '"epochs"').encode()
    directory.write(f"{version.folder}/model.json", document)
    with pytest.raises(StoreError, match="newer release"):
        get_model(directory, "ants-bees")
