# ruff: noqa: E402
import importlib
import os

os.environ["OTHERVIEW_TYPECHECK"] = "1"  # shapes are checked here ...
importlib.import_module("otherview")
os.environ["OTHERVIEW_TYPECHECK"] = "0"  # ... and not in the processes that tests start: see tests/processes.py

if "PYTEST_XDIST_WORKER" in os.environ:  # tests beside each other: one thread each, or they wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import hypothesis
import pytest

from tests.processes import in_process

hypothesis.settings.register_profile("here", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("here")

DATA = Path(__file__).parent / "data"


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["OTHERVIEW_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def real_data() -> Path:
    folder = Path(os.environ.get("OTHERVIEW_DATA", ""))
    if not os.environ.get("OTHERVIEW_DATA") or not folder.is_dir():
        pytest.skip(
            "needs real images: set OTHERVIEW_DATA to a folder with cifar10/, imagenette128/, coco128/, photos/"
        )
    return folder


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def otherview(tmp_path: Path) -> Run:
    """The command line, called in this process: quick, since torch is imported already."""

    def run(*words: str | Path, timeout: float = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        return in_process([*map(str, words)], folder=tmp_path, **environment)

    return run


@pytest.fixture
def process(tmp_path: Path) -> Run:
    """The command line in a process of its own, as a user has it."""

    def run(*words: str | Path, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "otherview", *map(str, words)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            cwd=tmp_path,
            env={**os.environ, **environment},
        )

    return run


def _result(run: Run, *words: str | Path, **environment: str) -> dict:
    done = run(*words, "--json", **environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, done.stdout
    return json.loads(done.stdout)


@pytest.fixture
def result_of(otherview: Run) -> Callable[..., dict]:
    """What a command prints with --json; fails where it fails."""
    return partial(_result, otherview)


@pytest.fixture
def result_of_process(process: Run) -> Callable[..., dict]:
    """The same from a process of its own: without the checks of shapes, which draw from Python's generator as timm does."""
    return partial(_result, process)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process ends alone with one of them."""
    items.sort(key=lambda item: "commands_of_a_page" not in item.name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """`make gpu` says at its end whether there was a GPU."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "needs a GPU" in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(f"no GPU: {len(skipped)} tests skipped")
