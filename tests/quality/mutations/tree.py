"""A copy of a checkout to put faults in, with a Python that imports graft from there.

The copy lies in a temporary folder as the checkout lies in its own: `.cache`, and `shared` next
to it, are links to the checkout's. Its Python is a venv over the checkout's: the same packages,
but its `graft` and what it imports are the copy's, also in processes that get no PYTHONPATH.
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from quality.mutations.faults import Fault, put_in

_MARK = "GRAFT_MUTATION_MARK"
_NOT_INHERITED = ("COVERAGE_", "GRAFT_TEST_CONTEXT", "PYTEST_", "PYTHONPATH", "VIRTUAL_ENV")
_LINKED = (".cache", ".venv")
_PLUGIN = Path(__file__).with_name("plugin.py")


@dataclass(frozen=True)
class Tree:
    """A copied checkout, and the Python for it."""

    root: Path
    python: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    """In the environment of all that runs here, so that what is left of it can be found."""
    stamps: Iterator[int] = field(default_factory=lambda: itertools.count(1_000_000_000))
    """Times for what is written: never one twice, else Python would take an old .pyc."""

    def write(self, file: str, source: str) -> None:
        """Put a source in its place."""
        path, stamp = self.root / file, next(self.stamps)
        path.write_text(source)
        os.utime(path, (stamp, stamp))

    @contextlib.contextmanager
    def having(self, fault: Fault) -> Iterator[None]:
        """Have a fault in the tree, for as long as the block runs."""
        source = (self.root / fault.file).read_text()
        self.write(fault.file, put_in(fault, source))
        try:
            yield
        finally:
            self.write(fault.file, source)

    def run(self, command: list[str], log: Path, limit: float, more: dict[str, str]) -> int | None:
        """Run a command in the tree and end whatever it leaves; None where the time was over."""
        given = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_INHERITED)}
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=given | more | {_MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                return process.wait(limit)
            except subprocess.TimeoutExpired:
                return None
            finally:
                self._end_all()
                process.wait()

    def _end_all(self) -> None:
        """End every process that has the tree's mark: Ray's leave their parent's group."""
        mark = f"{_MARK}={self.mark}".encode()
        for _ in range(5):
            left = [process for process in Path("/proc").glob("[0-9]*") if _has(process, mark)]
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process.name), signal.SIGKILL)
            if not left:
                return


def _has(process: Path, mark: bytes) -> bool:
    try:
        return mark in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


@contextlib.contextmanager
def copied(root: Path, python: Path) -> Iterator[Tree]:
    """Copy what git knows of a checkout, and what it does not ignore; remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="graft-mutations-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        copy = folder / "tree"
        listed = ["git", "ls-files", "-z", "-co", "--exclude-standard"]
        files = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout
        for file in filter(None, files.split("\0")):
            source, target = root / file, copy / file
            if source.is_file() or source.is_symlink():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)
        subprocess.run(["git", "init", "-q", str(copy)], check=True)
        # .gitignore has them as folders, and links are none.
        (copy / ".git" / "info").mkdir(exist_ok=True)
        (copy / ".git" / "info" / "exclude").write_text("\n".join(_LINKED) + "\n")
        for link, target in [(copy / linked, root / linked) for linked in _LINKED] + [
            (folder / "shared", root.parent / "shared")
        ]:
            if target.exists():
                link.symlink_to(target)
        yield Tree(copy, _venv_over(python, folder / "venv", copy / "platform"))


def _venv_over(python: Path, folder: Path, package: Path) -> Path:
    """Make a venv that has another's packages and programs, but imports `package` first."""
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
    made = folder / "bin" / "python"
    theirs, ours = (_site_packages(each) for each in (python, made))
    path = f"{package}\nimport site; site.addsitedir({str(theirs)!r})\n"
    (ours / "graft_mutations.pth").write_text(path)
    shutil.copy(_PLUGIN, ours / "graft_mutations.py")
    for program in python.parent.iterdir():
        target = made.parent / program.name
        if target.exists() or not program.is_file():
            continue
        text = program.read_bytes()
        if text.startswith(b"#!"):
            target.write_bytes(text.replace(bytes(python.parent), bytes(made.parent)))
            target.chmod(0o755)
        else:
            target.symlink_to(program)
    return made


def _site_packages(python: Path) -> Path:
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
    return Path(done.stdout.strip())
