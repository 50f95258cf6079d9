"""Which process runs which tests, under pytest-xdist: a plugin.

A file's tests stay in one process, for they share what the file's fixtures make; all files that
use the tests' Ray stay in one process, too, since a Ray takes seconds to start, but for the slow
ones (`--ray-in-each`), which take minutes and mostly wait. What takes longest comes first, so that
at the end no process waits long for another.
"""

import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RAY = "ray"
FIRST = (
    RAY,
    "tests/sweep/test_run_sweep.py",
    "tests/test_readme.py",
    "tests/serving/test_deployment.py",
    "tests/cli/test_submit.py",
    "tests/cli/test_run_job.py",
    "tests/training/test_ray_train.py",
    "tests/report/transfer/test_transfer.py",
    "tests/training/test_run_activations.py",
    "tests/training/test_recipe.py",
    "tests/training/test_attempt.py",
    "tests/backbones/test_transfer_model.py",
    "tests/cli/test_bad_input.py",
)
"""The longest, longest first; the others follow as they are collected."""


@functools.cache
def group(file: str, ray_in_each: bool = False) -> str:
    """Return what keeps a file's tests together: its path, RAY, or the folder of the chart's."""
    if file.startswith("tests/helm/"):  # what helm renders is kept by the process
        return "tests/helm"
    return RAY if not ray_in_each and "ray_cluster" in (ROOT / file).read_text() else file


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "let each process have a Ray of its own"
    parser.getgroup("scheduling").addoption("--ray-in-each", action="store_true", help=help)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # without others there is nothing to wait for
        ranks = {name: rank for rank, name in enumerate(FIRST)}
        each = config.getoption("--ray-in-each")

        def rank(item: pytest.Item) -> int:
            return ranks.get(group(item.nodeid.partition("::")[0], each), len(ranks))

        items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    # Imported here: only with `-n` is there a need of it. `--dist loadgroup` would do, with a mark
    # for each group, but for pytest 9.2, under which pytest-xdist 3.8 no longer finds the marks.
    from xdist.scheduler import LoadScopeScheduling

    each = config.getoption("--ray-in-each")

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.partition("::")[0], each)

    config.option.loadscopereorder = False  # by numbers of tests
    return Scheduling(config, log)
