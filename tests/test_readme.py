"""README and docs/: their commands are run as they stand there, their tables and links hold."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import typer
from PIL import Image
from typer.core import TyperGroup

from graft.backbones.stage_map import freeze_depth, stage_map
from graft.cli.main import app
from graft.serving.app import Answer
from graft.spec import Sweep, load_job, trial_spec
from graft.sweep.space import listed_trials

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
STORE = ROOT / "docs" / "store.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
RUN = re.compile(r"ants-bees-\d{8}-\d{6}-[0-9a-f]{4}")
# Random weights; the rest is as the README has it.
# So many epochs that Ctrl-C, after which Ray has five seconds, acts before the last one.
EPOCHS = 80
QUICK = ["backbone.weights=none", "cache=off", f"train.epochs={EPOCHS}"]


def commands(page: Path, section: str = "") -> list[list[str]]:
    """Return the words of every command in the bash blocks of a page, or of a section of it."""
    text = page.read_text()
    if section:
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        assert "```bash" in text, f"no commands in '{section}' of {page}"
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


def all_commands() -> list[list[str]]:
    return [words for page in PAGES for words in commands(page)]


def test_the_readme_is_read_in_minutes() -> None:
    assert README.read_text().count("\n") <= 300


def test_every_command_is_known() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for program, *arguments in all_commands():
        assert program in ("make", ".", "export", "graft", "curl", "kubectl", "helm")
        if program == "make":
            assert arguments[0] in targets


def test_every_job_is_valid() -> None:
    jobs = [words for words in all_commands() if words[:2] == ["graft", "train"]]
    assert len(jobs) >= 4
    for _, _, spec, *options in jobs:
        assert options[::2] == ["--set"] * (len(options) // 2)
        job = load_job(ROOT / spec, options[1::2])
        freeze_depth(job.backbone.freeze, stage_map(job.backbone.arch, job.head))


def test_every_sweep_is_valid() -> None:
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    sweep = command.commands["sweep"]
    sweeps = [
        sweep.make_context("sweep", words[2:]).params  # no option but those there are
        for words in all_commands()
        if words[:2] == ["graft", "sweep"]
    ]
    assert len(sweeps) >= 3
    for options in sweeps:
        if options["resume"] is None:
            job = load_job(ROOT / options["spec"], options["set_"] or [], Sweep)
            for number, changes in enumerate(listed_trials(job) or [], 1):
                spec = trial_spec(job.base, changes, f"trial {number}")
                freeze_depth(spec.backbone.freeze, stage_map(spec.backbone.arch, spec.head))


def test_the_table_of_commands_is_complete() -> None:
    def paths(command: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if isinstance(command, TyperGroup):
            for name, child in command.commands.items():
                yield from paths(child, (*path, name))
        elif not command.hidden:
            yield path

    rows = re.findall(r"^\| `(graft [a-z -]+[a-z])", README.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(map(" ".join, paths(typer.main.get_command(app), ("graft",))))


def printed_answer() -> dict[str, Any]:
    """Return the answer of a server as the README prints it."""
    (printed,) = re.findall(r'^({"model".*?}})$', README.read_text(), re.DOTALL | re.MULTILINE)
    answer: dict[str, Any] = json.loads(printed)
    return answer


def test_the_printed_answer_is_what_a_server_says() -> None:
    assert Answer.model_validate(printed_answer()).model_dump(mode="json") == printed_answer()


def test_links_lead_somewhere() -> None:
    for page in (*PAGES, CONTRIBUTING):
        for link, anchor in re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", page.read_text()):
            target = page.parent / link
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in headings(target), f"{page.name}: {link}#{anchor}"


def headings(page: Path) -> list[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", [CONTRIBUTING, ROOT / "docs" / "architecture.md"])
def test_what_is_said_to_be_somewhere_is_there(page: Path) -> None:
    package = ROOT / "platform" / "graft"
    folders = {path.name for path in package.iterdir() if path.is_dir()}
    named = re.findall(r"[`( ]((?:\w+/)+(?:\w+\.py)?)(?=[`): ,])", page.read_text())
    paths = [path for path in named if path.partition("/")[0] in folders]
    assert len(paths) >= 30
    assert [path for path in paths if not (package / path).exists()] == []


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """What a user's shell has: `graft` on the path, and S3 where that is the store."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if request.param == "directory":
        return os.environ | {"PATH": path}
    uri: str = request.getfixturevalue("s3_store_uri")
    return os.environ | {"PATH": path, "GRAFT_STORE": uri}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what the README's commands speak of: the job, photos, a new image."""
    noise = np.random.default_rng(0)
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    for name, colour in (("ants", (120, 60, 30)), ("bees", (220, 180, 40))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            pixels = noise.normal(colour, 40, (80, 100, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.jpg")
    Image.fromarray(pixels[:60]).save(tmp_path / "new.jpg")
    return tmp_path


class Shell:
    """Runs the README's commands one after another, as its reader would."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder = folder
        self.environment = environment
        self.server: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self, words: list[str]) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, words: list[str]) -> str:
        with self.start(words) as process:
            output, messages = process.communicate()
        assert process.returncode == 0, messages
        return output

    def train_and_stop(self, words: list[str]) -> str:
        """Start a run, stop it with Ctrl-C after its first epoch; return its id."""
        for setting in QUICK:
            words = [*words, "--set", setting]
        with self.start(words) as process:
            assert process.stderr
            seen = []
            for line in process.stderr:
                seen.append(line)
                if line.startswith("epoch 1/"):
                    process.send_signal(signal.SIGINT)
            assert process.wait() == 130, seen
        (advice,) = [line for line in seen if "graft runs resume" in line]
        return RUN.findall(advice)[-1]

    def serve(self, words: list[str]) -> None:
        self.server = self.start([*words, "--port", "0", "--json"])
        document = ""
        while not document.endswith("\n}\n"):
            assert self.server.stdout
            line = self.server.stdout.readline()
            assert line, self.server.communicate()[1]
            document += line
        self.url = json.loads(document)["url"]


@pytest.fixture
def shell(folder: Path, environment: dict[str, str]) -> Iterator[Shell]:
    shell = Shell(folder, environment)
    yield shell
    if shell.server:
        shell.server.send_signal(signal.SIGINT)
        try:
            _, messages = shell.server.communicate(timeout=120)
        finally:
            shell.server.kill()
        assert shell.server.returncode == 0, messages


@pytest.mark.parametrize(  # training, twice, and a server, each with a Ray of its own: a minute
    "environment",
    [
        pytest.param("s3", marks=pytest.mark.slow),
        pytest.param("directory", marks=pytest.mark.nightly),
    ],
    indirect=True,
)
@pytest.mark.timeout(900)
def test_the_main_job_as_it_is_written(shell: Shell) -> None:
    if "GRAFT_STORE" in shell.environment:
        for words in commands(STORE, "On S3"):
            if words[0] == "graft":
                shell.run(words)
    asked = 0
    for words in commands(README, "The main job"):
        match words:
            case ["make" | ".", *_]:
                continue
            case ["graft", "train", *_]:
                run = shell.train_and_stop(words)
                for after in commands(README, "Stop and go on"):
                    shell.run([RUN.sub(run, word) for word in after])
                shown = json.loads(shell.run(["graft", "runs", "show", run, "--json"]))
                assert shown["attempt"] == 2
                assert shown["result"]["model"] == "ants-bees@1"
                assert len(shown["result"]["history"]) == EPOCHS
            case ["graft", "serve", *_]:
                shell.serve(words)
            case ["graft", "predict", *_]:
                answer = shell.run([*words, "--url", shell.url])
                assert re.search("new.jpg .*(ants|bees)", answer)
                asked += 1
            case ["curl", "--data-binary", image, address]:
                body = (shell.folder / image.removeprefix("@")).read_bytes()
                address = address.replace("http://127.0.0.1:8000", shell.url)
                answer = httpx.post(address, content=body).raise_for_status().json()
                printed = printed_answer()
                assert answer.keys() == printed.keys()
                assert answer["timing_ms"].keys() == printed["timing_ms"].keys()
                assert answer["model"] == printed["model"]
                assert answer["why"] == printed["why"]
                asked += 1
            case _:
                shell.run(words)
    assert asked == 2
    (version,) = json.loads(shell.run(["graft", "models", "ls", "--json"]))["models"]
    assert version["aliases"] == ["candidate", "champion"]
