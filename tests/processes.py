"""How tests run the program: in this process, or in one of its own where a process is what is tested.

Shapes are checked in this process alone. The checks cost half of a short command's time, and they
draw from Python's generator, as timm does: a run with them is not the run without.
"""

import contextlib
import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt


@contextlib.contextmanager
def _surroundings(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Another working folder and environment, for a while."""
    before, here = {name: os.environ.get(name) for name in environment}, Path.cwd()
    os.environ.update(environment)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def in_process(words: list[str], *, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line without a process of its own: what it prints, and the status it would leave with."""
    from otherview.__main__ import dispatch
    from otherview.data import source

    source._named.clear()  # a new process has named no broken image yet
    said, told = io.StringIO(), io.StringIO()
    with _surroundings(folder, environment), contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        try:
            status = dispatch(words)
        except SystemExit as leaving:  # the parser's
            status = int(leaving.code or 0)
    plt.close("all")
    return subprocess.CompletedProcess(words, status, said.getvalue(), told.getvalue())


def has_trained(run: Path) -> bool:
    """Whether a run has logged a step: looks at what was learned come before the first."""
    log = run / "metrics.jsonl"
    return log.exists() and '"loss"' in log.read_text(encoding="utf-8")
