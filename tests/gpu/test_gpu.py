"""The script of `make gpu`, on a machine without one: its rows work, and what it says holds."""

import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gpu.compare import apart, losses_apart, weights_apart
from gpu.network import ResNet
from gpu.table import Figure, Result, Row, Skipped, print_result, run_rows, summary
from graft.backbones.make_network import OnMeta

RUN = Path(__file__).with_name("run.py")
VERDICT = re.compile(r"^(?P<name>\S.{19}).{52} (?P<verdict>ok|FAILED|skipped|not run)$", re.M)
FOR_GPUS = {"host to device", "loop, compiled", "step, squeezenet1_1"}
"""Rows, or some of that name, that a CPU skips."""


def run(*arguments: str, program: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(program or ("-W", "error", str(RUN))), *arguments]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow  # nine CPU seconds
def test_every_row_works_on_a_cpu() -> None:
    done = run("--device", "cpu", "--images", "8", "--minutes", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [(m["name"].strip(), m["verdict"]) for m in VERDICT.finditer(done.stdout)]
    assert {verdict for _, verdict in rows} == {"ok", "skipped"}, done.stdout
    assert {name for name, verdict in rows if verdict == "skipped"} == FOR_GPUS
    assert ("ray", "ok") in rows
    assert len(rows) == 25
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.slow
def test_without_torchvision_a_network_of_the_tests_takes_its_place() -> None:
    program = (
        "import runpy, sys; sys.modules['torchvision'] = None; sys.argv[0] = 'run.py'; "
        f"sys.path.insert(0, ''); runpy.run_path({str(RUN)!r}, run_name='__main__')"
    )
    done = run("--device", "cpu", "--rows", "golden", "--minutes", "60", program=("-c", program))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torchvision is not installed" in done.stdout
    assert re.search(r"^golden images .* ok$", done.stdout, re.M)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_that_network_has_torchvisions_parameters(arch: str) -> None:
    from torchvision import models

    with OnMeta():
        own, theirs = ResNet(arch, 3), models.get_model(arch, num_classes=3)
    shapes = [
        {name: tensor.shape for name, tensor in network.state_dict().items()}
        for network in (own, theirs)
    ]
    assert shapes[0] == shapes[1]


def test_without_a_gpu_it_says_so() -> None:
    done = run()
    assert done.returncode == 0
    assert re.fullmatch(r"no GPU here.*: nothing to measure\n", done.stdout)


def test_without_torch_it_says_so() -> None:
    done = run(program=("-S", str(RUN)))  # no site-packages
    assert done.returncode == 0
    assert re.fullmatch(r"torch is not installed for .*: nothing to measure\n", done.stdout)


def test_a_row_that_breaks_leaves_the_others() -> None:
    def breaks() -> Figure:
        raise ValueError("of course\nin two lines")

    def skips() -> Figure:
        raise Skipped("not here")

    rows = [
        Row("broken", "", breaks),
        Row("absent", "", skips),
        Row("apart", "", lambda: Figure("1e-1", good=False)),
        Row("fine", "", lambda: Figure("1e-6")),
    ]
    results = run_rows(rows, time.monotonic() + 3600, lambda result: None)
    assert [result.verdict for result in results] == ["FAILED", "skipped", "FAILED", "ok"]
    assert results[0].why == "ValueError: of course in two lines"
    assert summary(results, 2.0) == "4 rows in 2 s: 1 ok, 2 FAILED, 1 skipped, 0 not run"


def test_what_does_not_fit_into_the_time_is_not_begun() -> None:
    now = 0.0

    def takes(seconds: float) -> Figure:
        nonlocal now
        now += seconds
        return Figure("")

    rows = [
        Row("quick", "", lambda: takes(50), 10),
        Row("long", "", lambda: takes(100), 60),
        Row("short", "", lambda: takes(10), 10),
        Row("always", "", lambda: takes(0), -math.inf),
    ]
    results = run_rows(rows, 100, lambda result: None, lambda: now)
    assert [result.verdict for result in results] == ["ok", "not run", "ok", "ok"]
    assert results[1].why == "time: 50 s left, 60 s expected"


def test_a_row_is_laid_out_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("a name that is long for its column", "what " * 20, lambda: Figure(""))
    print_result(Result(row, "FAILED", "first\nsecond", "why " * 40 + "x" * 200))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith("first               FAILED")
    assert "second" in lines[1]


def test_what_is_apart_is_found() -> None:
    one = torch.tensor([1.0, -4.0])
    assert apart(one, one) == 0
    assert apart(torch.tensor([1.0, -3.0]), one) == pytest.approx(0.25)
    assert losses_apart([2.0, 1.0], [2.0, 0.5]) == pytest.approx(1.0)
    assert math.isnan(losses_apart([math.nan, 1.0], [2.0, 1.0]))
    start, end = {"w": torch.zeros(2), "n": torch.tensor(0)}, {"w": one, "n": torch.tensor(3)}
    assert weights_apart(end, end, start) == 0
    assert weights_apart({"w": one * 1.5}, end, start) == pytest.approx(0.5)
