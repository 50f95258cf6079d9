"""`graft data`, as a user runs it."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

import commands


def graft(*arguments: str) -> commands.Done:
    return commands.main("data", *arguments)


IMAGES = {"train": 6, "val": 2, "test": 2}
"""How five images of each of two classes are split."""


def write_images(root: Path, count: int = 5) -> str:
    for label in ("red", "[green]"):
        (root / label).mkdir(parents=True)
        for i in range(count):
            color = (i, 255, 0) if label == "[green]" else (255, i, 0)
            Image.new("RGB", (8, 6), color).save(root / label / f"{i}.png")
    return str(root)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, object]]:
    """A store with one dataset, and what importing it printed."""
    folder = tmp_path_factory.mktemp("data")
    source, store = write_images(folder / "source"), str(folder / "store")
    words = ("--name", "colours", "--store", store, "--json")
    done = commands.graft("data", "import", source, *words)
    assert done.returncode == 0, done.stderr
    assert "images/s" in done.stderr
    document: dict[str, object] = json.loads(done.stdout)
    return store, document


def test_import_prints_one_document(imported: tuple[str, dict[str, object]]) -> None:
    _, document = imported
    assert document["written"] is True
    assert document["classes"] == ["[green]", "red"]
    assert document["counts"] == {
        "train": {"[green]": 3, "red": 3},
        "val": {"[green]": 1, "red": 1},
        "test": {"[green]": 1, "red": 1},
    }


def test_importing_again_says_so(imported: tuple[str, dict[str, object]]) -> None:
    store, document = imported
    source = str(document["source"])
    done = graft("import", source, "--name", "colours", "--store", store)
    assert done.returncode == 0
    assert "holds these images already; nothing was written" in " ".join(done.stderr.split())
    assert f"colours@{document['version']}" in done.stdout


def test_ls_and_show(imported: tuple[str, dict[str, object]]) -> None:
    store, document = imported
    listed = graft("ls", "--store", store)
    assert f"colours@{document['version']} │ yes" in listed.stdout
    (row,) = json.loads(graft("ls", "--store", store, "--json").stdout)["datasets"]
    assert (row["name"], row["latest"], row["images"]) == ("colours", True, IMAGES)

    version = str(document["version"])[:5]
    shown = graft("show", f"colours@{version}", "--store", store)
    assert "[green]" in shown.stdout
    assert "8 to 8 pixels" in shown.stdout
    assert "val 0.2, test 0.1 of train, seed 0" in shown.stdout
    manifest = json.loads(graft("show", "colours", "--store", store, "--json").stdout)
    assert manifest.items() <= document.items()


def test_without_test_images_the_output_says_what_that_costs(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_images(tmp_path / "source" / split)
    words = ("--name", "x", "--store", str(tmp_path / "store"), "--test-fraction", "0")
    done = graft("import", str(tmp_path / "source"), *words)
    said = "as in the source; no test split, so that nothing can be shown"
    assert said in " ".join(done.stdout.split()), done.stderr


def test_show_of_a_missing_dataset(imported: tuple[str, dict[str, object]]) -> None:
    done = graft("show", "colors", "--store", imported[0], "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "did you mean 'colours'?" in done.stderr


def test_bad_files_fail_with_their_names_and_exit_code_2(tmp_path: Path) -> None:
    source, store = write_images(tmp_path / "source"), str(tmp_path / "store")
    (tmp_path / "source" / "red" / "text.jpg").write_text("no image")
    (tmp_path / "source" / "red" / "empty.jpg").touch()
    done = graft("import", source, "--name", "colours", "--store", store, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "red/text.jpg: not an image" in done.stderr
    assert "red/empty.jpg: 0 bytes" in done.stderr
    assert "Traceback" not in done.stderr

    done = graft("import", source, "--name", "colours", "--store", store, "--skip-bad")
    assert done.returncode == 0
    assert "left out: 2" in done.stdout


def test_labels_of_a_table_and_what_has_none(tmp_path: Path) -> None:
    source = write_images(tmp_path / "source")
    paths = sorted(path.relative_to(source) for path in Path(source).rglob("*.png"))
    rows = [f"{path},{'even' if int(path.stem) % 2 == 0 else 'odd'}" for path in paths]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows[1:], "x.png,odd"]))
    words = (source, "--labels", str(tmp_path / "labels.csv"), "--name", "numbers")
    done = graft("import", *words, "--store", str(tmp_path / "store"), "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{paths[0]}: no row of {tmp_path}/labels.csv names it" in done.stderr
    assert f"x.png: {tmp_path}/labels.csv names it (line 11)" in done.stderr
    done = graft("import", *words, "--skip-bad", "--store", str(tmp_path / "store"), "--json")
    assert json.loads(done.stdout)["classes"] == ["even", "odd"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["no/such/folder", "--name", "x"],
        [".", "--name", "Not A Name"],
        [".", "--name", "x", "--max-side", "0"],
        ["."],
    ],
)
def test_mistakes_end_with_exit_code_2(tmp_path: Path, arguments: list[str]) -> None:
    done = graft("import", *arguments, "--store", str(tmp_path))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_copies_are_said(tmp_path: Path) -> None:
    source, store = write_images(tmp_path / "source"), str(tmp_path / "store")
    for i in range(3):
        shutil.copy(f"{source}/red/0.png", f"{source}/red/IMG ({i}).png")
    (tmp_path / "source" / "red" / "Thumbs.db").touch()
    done = graft("import", source, "--name", "colours", "--store", store)
    shown = graft("show", "colours", "--store", store)
    for page in (done.stdout, shown.stdout):
        text = " ".join(page.split())
        assert "copies within one class and split, 3 more than count in an interval" in text
        assert "red/0.png, red/IMG (0).png, red/IMG (1).png, red/IMG (2).png" in text
        assert "ignored: Thumbs.db (1)" in text
    document = json.loads(graft("show", "colours", "--store", store, "--json").stdout)
    assert sum(document["distinct"].values()) == 10
    assert [same["class"] for same in document["copies"]] == ["red"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_import_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    for name in ("tmp", "source/a", "source/b"):
        (tmp_path / name).mkdir(parents=True)
    large = tmp_path / "source" / "a" / "0.jpg"
    Image.effect_noise((1500, 1500), 50).save(large)
    for i in range(1, 300):
        os.link(large, large.with_name(f"{i}.jpg"))
    words = [tmp_path / "source", "--name", "x", "--threads", "1", "--store", tmp_path / "store"]
    process = subprocess.Popen(
        [commands.GRAFT, "data", "import", *words],
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "tmp").rglob("*.tar")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "store").exists()
