"""What design and CONTRIBUTING.md say about the tree, held to account."""

import ast
import functools
import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from graft.registry import get_model
from graft.store import Store
from models import register_model

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "platform" / "graft"

ORDER = [
    "units",
    "cpus",
    "errors",
    "own_ray",
    "spec",
    "store",
    "parts",
    "registry",
    "data",
    "backbones",
    "activations",
    "training",
    "decisions",
    "sweep",
    "serving",
    "prediction",
    "import_job",
    "report",
    "cluster",
    "upkeep",
    "demo",
    "cli",
]
"""A part imports itself and those before it, and no other."""

ALLOWED = {
    "boto3": ["store/s3.py"],
    "botocore": ["store/s3.py"],
    "kubernetes": ["cluster/"],
    "ray": [
        "activations/ray_tasks.py",
        "training/ray_train.py",
        "training/ray_train_meeting.py",
        "sweep/ray_tune_actor.py",
        "sweep/run_sweep.py",
        "sweep/ray_tune_scheduler.py",
        "sweep/ray_tune.py",
        "serving/deployment.py",
        "serving/ray_serve.py",
        "serving/haproxy.py",
        "serving/ray_metrics.py",
        "parts/ray_data.py",
        "report/decision/ray_task.py",
        "report/evaluation/ray_task.py",
        "report/transfer/ray_tasks.py",
        "cluster/",
    ],
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@functools.cache
def imports(path: Path) -> list[str]:
    """Return what a file imports, in functions too: graft.a.b for ``from graft.a import b``."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def files() -> list[str]:
    """The project's own files, with those not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout: what is the project's own is not known")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_nothing_shadows_pythons_platform() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not [path for path in (ROOT / "tests").rglob("platform") if path.is_dir()]


def test_imports_point_one_way() -> None:
    wrong = []
    for path in modules():
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        assert part in ORDER, f"{path}: where does '{part}' stand in ORDER?"
        for name in imports(path):
            graft, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if graft == "graft" and target in ORDER and ORDER.index(target) > ORDER.index(part):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("library", ALLOWED)
def test_libraries_stay_where_they_belong(library: str) -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        if any(name.partition(".")[0] == library for name in imports(path))
    }
    assert [name for name in users if not name.startswith(tuple(ALLOWED[library]))] == []


CHOICES = re.compile(
    r"set_num_threads|use_deterministic_algorithms|allow_tf32|fp32_precision|cuda\.is_available"
    r"|cuda\.set_device|\bget_device\b"
)
"""What decides with how many threads, how exactly and on which device a process computes."""
COMPUTE = [
    "activations/ray_tasks.py",
    "report/evaluation/evaluate.py",
    "serving/deployment.py",
    "sweep/ray_tune_actor.py",
    "sweep/run_sweep.py",
    "training/lr_find.py",
    "training/ray_train.py",
]


def test_one_function_decides_how_a_process_computes() -> None:
    setup = "backbones/process_setup.py"
    deciding = {
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        if CHOICES.search(path.read_text())
    }
    assert deciding == {setup}
    calls = re.compile(r"\bset_up_process\(")
    assert [name for name in COMPUTE if not calls.search((PACKAGE / name).read_text())] == []


def test_files_stay_short() -> None:
    long = {
        name: lines
        for name in files()
        if name.endswith(".py") and (lines := (ROOT / name).read_text().count("\n")) > 500
    }
    assert long == {}


def words() -> list[list[str]]:
    """The rows of CONTRIBUTING's list of words: the word, what it means, where it lives."""
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("\n| word | ")[2]
    rows = section.partition("\n\n")[0].splitlines()[2:]
    return [row.strip("| ").split(" | ") for row in rows]


def test_the_words_are_in_order_and_each_once() -> None:
    listed = [row[0].lower() for row in words()]
    assert len(listed) > 40
    assert listed == sorted(set(listed))


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_a_page_on_the_code_names_files_that_there_are(page: str) -> None:
    """And, where it says `FILE: NAME`, files that have the name."""
    text = (ROOT / page).read_text()
    places = re.findall(r"\b((?:\w+/)+(?!__)\w+\.(?:py|toml|env))(?:: (\w+)`)?", text)
    assert places
    wrong = []
    for name, content in places:
        file = next((f for f in (ROOT / name, PACKAGE / name) if f.is_file()), None)
        if file is None or content not in file.read_text():
            wrong.append(f"{name}: {content}")
    assert wrong == []


def test_no_file_holds_a_registrys_address_or_a_machines_path() -> None:
    address = re.compile(
        r"pypi\.(org|python\.org)|pythonhosted\.org|registry\.npmjs|proxy\.golang|sum\.golang"
        r"|download\.pytorch\.org/whl|conda\.anaconda"
    )
    path = re.compile(r"(?<![\w.])/(root|work|home/\w+)/")
    found = [
        f"{name}:{number}: {match[0]}"
        for name in files()
        for number, line in enumerate((ROOT / name).read_text(errors="ignore").splitlines(), 1)
        if (match := address.search(line) or path.search(line))
    ]
    assert found == []


def test_everything_installed_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.!+]+", pin)] == []
    pinned = {canonicalize_name(pin.partition("==")[0]) for pin in pins}
    assert needed("graft-vision", frozenset({"dev"})) - pinned == {"graft-vision"}


def needed(root: str, extras: frozenset[str]) -> set[str]:
    """Return every distribution that `root` with `extras` brings on this machine."""
    seen: set[tuple[str, str]] = set()
    todo = [(root, extra) for extra in {"", *extras}]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for requirement in map(Requirement, requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                child = canonicalize_name(requirement.name)
                todo += [(child, wanted) for wanted in {"", *requirement.extras}]
    return {name for name, _ in seen}


VERBS = (
    *("", "train", "lr-find", "runs", "sweep", "sweeps", "submit", "jobs", "serve", "predict"),
    *("demo", "data", "models", "evaluate", "reports", "backbones", "activations", "store"),
    *("gc", "fsck"),
)
HEAVY = {"torch", "ray", "boto3", "kubernetes", "numpy", "PIL", "pyarrow"}


def test_help_loads_nothing_heavy() -> None:
    loaded = loaded_by(*(f"{verb} --help" for verb in VERBS))
    assert {command for command, found in loaded.items() if tops(found) & HEAVY} == set()


def test_help_loads_little() -> None:
    """It answers at once: what takes its time is what it loads."""
    (loaded,) = loaded_by("--help").values()
    known = packages_distributions()
    of_others = {canonicalize_name(name) for top in tops(loaded) for name in known.get(top, ())}
    assert of_others - needed("typer", frozenset()) == set()
    assert len(loaded) < 300


def test_client_commands_load_neither_torch_nor_ray(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    register_model(store, "m")
    parts = ("data", "models", "activations", "sweeps", "reports", "jobs")
    loaded = loaded_by(
        *(f"{part} ls --store {tmp_path}" for part in parts),
        f"models promote m@1 --store {tmp_path}",
        f"gc --delete --store {tmp_path}",
        f"fsck --store {tmp_path}",
        f"store copy {tmp_path} {tmp_path}-copy",
    )
    wrong = {"torch", "ray", "sklearn"}
    assert {command for command, found in loaded.items() if tops(found) & wrong} == set()
    assert get_model(store, "m@champion").version == 1


def test_import_graft_loads_nothing_heavy() -> None:
    program = "import graft, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert {"torch", "ray", "boto3", "pydantic", "rich"} & set(done.stdout.split()) == set()


def loaded_by(*commands: str) -> dict[str, set[str]]:
    """Run commands in one process; return the modules that it had loaded after each."""
    program = """
import sys
before = set(sys.modules)
import contextlib, io, json
from graft.cli.main import main
loaded = []
for command in sys.argv[1:]:
    sys.argv = ["graft", *command.split()]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            main()
    except SystemExit as end:
        assert not end.code, command
    loaded.append([*(sys.modules.keys() - before)])
print(json.dumps(loaded))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *commands], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(commands, map(set, json.loads(done.stdout)), strict=True))


def tops(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}
