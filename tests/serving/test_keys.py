"""API keys: their file, who reads it again when, and the commands that write it."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import commands
from graft.errors import InputError, NotFoundError
from graft.serving.keys import KeyRing, new_key, read_keys, revoke_key


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_known_by_its_text_and_the_file_does_not_have_that(file: Path) -> None:
    shop, monitor = new_key(file, "shop", ("predict",)), new_key(file, "monitor", ("admin",))
    assert shop != monitor
    ring = KeyRing(file)
    found = ring.find(shop)
    assert found
    assert (found.name, found.scopes) == ("shop", ("predict",))
    assert not {shop, monitor} & set(file.read_text().split('"'))
    for other in ("", shop[:-1], f"{shop} ", found.sha256, "ü" * 20, "x" * 1_000_000):
        assert ring.find(other) is None


def test_names_are_taken_once_and_a_revoked_one_is_free_again(file: Path) -> None:
    first = new_key(file, "shop", ("predict",))
    with pytest.raises(InputError, match="has a key 'shop'; revoke it, or choose"):
        new_key(file, "shop", ("predict",))
    revoke_key(file, "shop")
    with pytest.raises(NotFoundError, match="has no key 'shop'; it has: none"):
        revoke_key(file, "shop")
    second = new_key(file, "shop", ("predict",))
    ring = KeyRing(file)
    assert ring.find(first) is None
    assert ring.find(second)


def test_who_changes_the_file_together_loses_no_change(file: Path) -> None:
    names = [f"key-{number}" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: new_key(file, name, ("predict",)), names))
    assert sorted(key.name for key in read_keys(file)) == sorted(names)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "EOF"),
        ("[]", "should be an object"),
        ('{"format": 2, "keys": []}', "format: Input should be 1"),
        ('{"keys": [{"name": "a"}]}', "keys.0.scopes: Field required"),
        ('{"keys": [], "more": 1}', "more: Extra inputs are not permitted"),
        (" " * 1_000_001, "more than 1,000,000 bytes"),
    ],
)
def test_what_is_no_file_of_keys_is_refused_with_what_is_wrong(
    file: Path, content: str, reason: str
) -> None:
    file.write_text(content)
    for use in (
        lambda: KeyRing(file),
        lambda: new_key(file, "shop", ("predict",)),
        lambda: revoke_key(file, "shop"),
    ):
        with pytest.raises(InputError, match=reason):
            use()
    assert file.read_text() == content


def test_a_name_stands_once_and_means_one_key(file: Path) -> None:
    new_key(file, "shop", ("predict",))
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document | {"keys": document["keys"] * 2}))
    with pytest.raises(InputError, match="'shop' stands twice"):
        read_keys(file)


def test_a_ring_goes_with_its_file_and_keeps_its_keys_while_that_is_wrong(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop, other = new_key(file, "shop", ("predict",)), new_key(file, "other", ("predict",))
    ring = KeyRing(file)

    def valid() -> list[bool]:
        ring.look()
        return [ring.find(text) is not None for text in (shop, other)]

    right = file.read_bytes()
    for wrong in (right[:40], b""):
        file.write_bytes(wrong)
        assert valid() == [True, True]
    file.unlink()
    assert valid() == valid() == [True, True]
    assert caplog.text.count("no such file") == 1
    assert caplog.text.count("the keys that were read last stay valid") == 3
    file.write_bytes(right)
    revoke_key(file, "other")
    assert valid() == [True, False]
    assert "valid keys are shop" in caplog.text
    revoke_key(file, "shop")
    assert valid() == [False, False]  # no keys at all are keys, too: nobody may enter


def test_a_ring_sees_how_kubernetes_changes_a_secrets_volume(tmp_path: Path) -> None:
    """The kubelet writes a new folder and swaps the link that leads to it."""
    volume = tmp_path / "volume"
    (volume / "..1").mkdir(parents=True)
    shop = new_key(volume / "..1" / "keys.json", "shop", ("predict",))
    (volume / "..data").symlink_to("..1")
    (volume / "keys.json").symlink_to("..data/keys.json")
    ring = KeyRing(volume / "keys.json")
    assert ring.find(shop)
    (volume / "..2").mkdir()
    (volume / "..2" / "keys.json").write_text('{"keys": []}')
    (volume / "..data_tmp").symlink_to("..2")
    os.rename(volume / "..data_tmp", volume / "..data")
    shutil.rmtree(volume / "..1")
    ring.look()
    assert ring.find(shop) is None


def test_commands_from_new_to_revoke(tmp_path: Path) -> None:
    def run(*words: str) -> commands.Done:
        return commands.main("keys", *words, cwd=tmp_path)

    made = run("new", "keys.json", "shop", "--scope", "admin", "--scope", "predict", "--json")
    assert made.returncode == 0, made.stderr
    document = json.loads(made.stdout)
    assert (document["name"], document["scopes"]) == ("shop", ["admin", "predict"])
    ring = KeyRing(tmp_path / "keys.json")
    assert ring.find(document["key"])
    plain = run("new", "keys.json", "other")
    assert plain.stdout.startswith("graft_")
    listed = json.loads(run("ls", "keys.json", "--json").stdout)["keys"]
    assert [(key["name"], key["scopes"]) for key in listed] == [
        ("shop", ["admin", "predict"]),
        ("other", ["predict"]),
    ]
    assert run("revoke", "keys.json", "shop").returncode == 0
    ring.look()
    assert ring.find(document["key"]) is None
    assert ring.find(plain.stdout.strip())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["new", "keys.json", "Shop"], "key 'Shop': name: "),
        (["new", "keys.json", "shop", "--scope", "all"], "--scope all: expected predict or admin"),
        (["new", "absent/keys.json", "shop"], "absent/keys.json: the folder cannot be used: No"),
        (["ls", "keys.json"], "keys.json: no such file; `graft keys new keys.json NAME` makes it"),
        (["revoke", "keys.json", "shop"], "keys.json: no such file"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    done = commands.main("keys", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"graft: {message}")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
