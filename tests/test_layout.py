"""What design and CONTRIBUTING.md say about the tree, held to account."""

import ast
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from graft.store import Store
from models import register_model

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "platform" / "graft"
GRAFT = Path(sys.executable).with_name("graft")

ORDER = [
    "errors",
    "spec",
    "backend",
    "store",
    "probe",
    "registry",
    "data",
    "backbones",
    "activations",
    "training",
    "sweep",
    "serving",
    "report",
    "cluster",
    "demo",
    "cli",
]
"""A part imports itself and those before it, and no other."""

ALLOWED = {
    "boto3": ["store.py"],
    "botocore": ["store.py"],
    "kubernetes": ["cluster/"],
    "ray": [
        "activations/worker.py",
        "training/worker.py",
        "sweep/actor.py",
        "sweep/run.py",
        "sweep/schedule.py",
        "sweep/tuning.py",
        "serving/deployment.py",
        "report/worker.py",
        "cluster/",
    ],
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Yield what a file imports, also inside functions: graft.a.b for ``from graft.a import b``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


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


def test_files_stay_short() -> None:
    long = {
        name: lines
        for name in files()
        if name.endswith(".py") and (lines := (ROOT / name).read_text().count("\n")) > 500
    }
    assert long == {}


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
    assert needed("graft", frozenset({"dev"})) - pinned == {"graft"}


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


@pytest.mark.parametrize(
    "verb",
    [
        "",
        "train",
        "lr-find",
        "runs",
        "sweep",
        "sweeps",
        "submit",
        "jobs",
        "serve",
        "predict",
        "demo",
        "data",
        "models",
        "evaluate",
        "report",
        "backbones",
        "activations",
        "store",
    ],
)
def test_help_loads_nothing_heavy(verb: str) -> None:
    assert (
        loaded(f"{verb} --help")
        & {
            "torch",
            "ray",
            "boto3",
            "kubernetes",
            "numpy",
            "PIL",
            "pyarrow",
        }
        == set()
    )


@pytest.mark.parametrize(
    "arguments",
    [
        "data ls --store {}",
        "models ls --store {}",
        "activations ls --store {}",
        "sweeps ls --store {}",
        "report ls --store {}",
        "jobs ls --store {}",
    ],
)
def test_client_commands_load_neither_torch_nor_ray(arguments: str, tmp_path: Path) -> None:
    assert loaded(arguments.format(tmp_path)) & {"torch", "ray"} == set()


def test_promotion_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    register_model(Store.open(str(tmp_path)), "m")
    assert loaded(f"models promote m@1 --store {tmp_path}") & {"torch", "ray", "sklearn"} == set()


def test_import_graft_loads_nothing_heavy() -> None:
    program = "import graft, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert {"torch", "ray", "boto3", "pydantic", "rich"} & set(done.stdout.split()) == set()


def loaded(arguments: str) -> set[str]:
    """Run a command and return the modules that its process had loaded in the end."""
    program = """
import sys
from graft.cli.main import main
try:
    main()
except SystemExit as end:
    print(*sys.modules, file=sys.stderr)
    raise
"""
    command = [sys.executable, "-c", program, *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_help_answers_at_once() -> None:
    commands: dict[str, list[str | Path]] = {
        "python": [sys.executable, "-c", "pass"],
        "graft": [GRAFT, "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(9):
        for name, command in commands.items():
            before = cpu_seconds_of_children()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(cpu_seconds_of_children() - before)
    extra = statistics.median(seconds["graft"]) - statistics.median(seconds["python"])
    assert extra <= 0.35


def cpu_seconds_of_children() -> float:
    """CPU time: on a busy machine the clock would measure the other tests."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
