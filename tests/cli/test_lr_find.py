"""`graft lr-find`: the real command on a tiny dataset, what it refuses, and what it leaves."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

import commands
from colours import colour_spec, draw_colours
from graft.data.importing import import_dataset
from graft.spec import dump_job, load_job
from graft.store import Store

pytestmark = pytest.mark.slow  # processes that train

RATES = ("--start", "1e-6", "--end", "1e-2", "--steps", "40")


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job and a store that has its dataset."""
    folder = tmp_path_factory.mktemp("user")
    draw_colours(folder / "images")
    import_dataset(
        Store.open(str(folder / "graft-store")), str(folder / "images"), "colours", test_fraction=0
    )
    (folder / "job.yaml").write_text(dump_job(colour_spec()))
    return folder


def files(user: Path) -> set[Path]:
    return {path for path in user.rglob("*") if path.is_file()}


def lr_find(user: Path, *arguments: str) -> commands.Done:
    return commands.graft("lr-find", "job.yaml", *arguments, cwd=user)


@pytest.mark.slow  # two CPU seconds
def test_a_rate_is_suggested_and_the_curve_drawn(user: Path) -> None:
    before = files(user)
    done = lr_find(user, *RATES, "--out", "curve.png", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document.keys() == {"suggested", "set", "rates", "losses", "smoothed", "png"}
    assert len(document["rates"]) == len(document["losses"]) == len(document["smoothed"]) == 40
    assert (document["rates"][0], document["rates"][-1]) == pytest.approx((1e-6, 1e-2))
    assert 1e-4 < document["suggested"] < 1e-2
    train = load_job(user / "job.yaml", document["set"]).train
    assert train.optimizer.lr == document["suggested"]
    assert "40 steps of 8 images at learning rates from 1e-06 to 0.01, on CPUs" in done.stderr
    # Nothing else is left, in the store or beside the curve.
    assert files(user) - before == {user / "curve.png"}
    assert document["png"] == "curve.png"
    with Image.open(io.BytesIO((user / "curve.png").read_bytes())) as picture:
        assert picture.format == "PNG"
        picture.load()


@pytest.mark.slow  # a process that trains: ten CPU seconds
def test_without_a_clear_fall_it_says_what_to_try(user: Path, tmp_path: Path) -> None:
    curve = tmp_path / "curve.png"
    curve.write_bytes(b"what was here before")
    arguments = ("--start", "1e-9", "--end", "1e-8", "--steps", "12", "--out", str(curve))
    done = lr_find(user, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("suggested learning rate: none\n")
    assert "does not fall clearly between 1e-09 and 1e-08" in done.stderr
    assert "wider range (--start, --end), more steps (--steps)" in done.stderr
    assert curve.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [curve]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--start", "1e-2", "--end", "1e-2"], "--start 0.01 --end 0.01: expected two learning"),
        (["--start", "0"], "--start 0 --end 1: expected two learning rates above 0, the lower"),
        (["--start", "nan"], "--start nan --end 1: expected"),
        (["--end", "inf"], "--start 1e-06 --end inf: expected"),
        (["--steps", "9"], "--steps 9: too few to see a curve; expected 10 or more"),
        (["--out", "images"], "--out images is a folder; expected a file, such as images/lr-"),
        (["--out", "no/where.png"], "--out no/where.png: no is not a folder"),
        (["--out", "job.yaml/c.png"], "--out job.yaml/c.png: job.yaml is not a folder"),
        (["--set", "train.optimiser.lr=1"], "unknown key 'train.optimiser'; did you mean"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_it_refuses(user: Path, arguments: list[str], message: str) -> None:
    before = files(user)
    done = commands.main("lr-find", "job.yaml", *arguments, cwd=user)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.startswith("graft: ")
    assert done.stderr.count("\n") == 1
    assert files(user) == before


def test_ctrl_c_leaves_nothing(user: Path) -> None:
    before = files(user)
    words = ("lr-find", "job.yaml", "--steps", "100000")
    with commands.Running(*words, cwd=user, env={"FORCE_COLOR": "1"}) as running:
        running.until(r"step \d+/100000")  # as on a terminal
        running.interrupt()
        done = running.wait()
    assert done.returncode == 130
    assert done.stdout == ""
    assert "100000 steps of 8 images" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr
    assert files(user) == before
