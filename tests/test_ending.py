"""Whatever goes wrong in a process or beside it: the command ends within seconds, with a status that says how."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.processes import has_trained

SECONDS = 20
SMALL = (
    "pretrain", "--recipe", "siamese_im_cpu_adamw", "--data", "shapes:200", "--batch", "16", "--encoder.width", "32",
    "--encoder.depth", "1", "--method.head-width", "32", "--method.negative-weight", "0.5", "--threads", "1",
    "--device", "cpu", "--training.workers", "1", "--training.log-every", "1",
)  # fmt: skip
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "otherview")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a command of its own process group; nothing of it outlives the test."""
    started: list[subprocess.Popen] = []

    def begin(*words: str | Path, launcher: tuple[str, ...] = ("-m", "otherview")) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, *launcher, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ended(process: subprocess.Popen, *, within: float = SECONDS) -> tuple[int, str]:
    """Exit status and standard error; fails where it does not end in time."""
    _, said = process.communicate(timeout=within)
    return process.returncode, said


def training(out: Path, process: subprocess.Popen) -> None:
    """Wait until a run has logged a step."""
    patience = time.monotonic() + 120
    while not has_trained(out):
        assert process.poll() is None and time.monotonic() < patience, process.communicate()[1]
        time.sleep(0.05)


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
def test_a_worker_that_raises_ends_the_run_with_the_reason(start: Callable, tmp_path: Path) -> None:
    """Five-channel arrays for an encoder of three: this never ended, as the worker ignored its parent.

    The first one is good, or the run would be refused before it begins.
    """
    (tmp_path / "five").mkdir()
    for index in range(400):
        channels = 5 if index else 3
        np.save(tmp_path / f"five/{index:03d}.npy", np.zeros((40, 40, channels), np.float32))
    words = [*SMALL, "--steps", "5", "--out", tmp_path / "run"]
    words[words.index("shapes:200")] = str(tmp_path / "five")
    status, said = ended(start(*words), within=3 * SECONDS)
    assert status == 1
    assert "images in a row cannot be read" in said.splitlines()[-1] and "(40, 40, 5)" in said.splitlines()[-1]
    assert said.count("(40, 40, 5)") < 10


@pytest.mark.slow
def test_a_killed_worker_ends_the_run(start: Callable, tmp_path: Path) -> None:
    process = start(*SMALL, "--steps", "5000", "--out", tmp_path / "run")
    training(tmp_path / "run", process)
    for worker in workers_of(process):
        worker.kill()
    status, said = ended(process)
    assert status == 1 and "worker" in said.splitlines()[-1].lower(), said


@pytest.mark.slow
def test_a_second_interrupt_is_immediate(start: Callable, tmp_path: Path) -> None:
    process = start(*SMALL, "--steps", "5000", "--out", tmp_path / "run")
    training(tmp_path / "run", process)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
    status, _ = ended(process)
    assert status in (1, 75)  # interrupted, or the step was over before the second one came


@pytest.mark.slow
def test_a_worker_hears_its_parent_and_nobody_else(start: Callable, tmp_path: Path) -> None:
    process = start(*SMALL, "--steps", "5000", "--out", tmp_path / "run")
    training(tmp_path / "run", process)
    worker = workers_of(process)[0]
    worker.send_signal(signal.SIGTERM)  # as a scheduler does, to every process of a job
    time.sleep(0.5)
    assert worker.is_running() and process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 75
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_closed_pipe_is_no_fault(start: Callable, tmp_path: Path) -> None:
    process = start("recipes", "siamese_im_vit_b16")
    process.stdout.close()
    status, said = ended(process)
    assert status == 0 and "Error" not in said


@pytest.mark.slow
def test_a_disk_without_room_ends_a_run_that_was_asked_to_stop(start: Callable, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").symlink_to("/dev/full")
    process = start(*SMALL, "--steps", "5000", "--out", tmp_path / "run")
    training(tmp_path / "run", process)
    process.send_signal(signal.SIGTERM)
    status, said = ended(process)
    assert status == 1 and "no checkpoint" in said.splitlines()[-1]


@pytest.mark.slow
def test_a_dead_rank_ends_the_job_ranks(start: Callable, tmp_path: Path) -> None:
    process = start(*SMALL, "--steps", "5000", "--out", tmp_path / "run", launcher=TORCHRUN)
    training(tmp_path / "run", process)
    ranks = [child for child in psutil.Process(process.pid).children() if "otherview" in " ".join(child.cmdline())]
    assert len(ranks) == 2
    ranks[1].kill()
    status, _ = ended(process, within=2 * SECONDS)
    assert status == 1
    assert not any(rank.is_running() for rank in ranks)


@pytest.mark.slow
def test_a_request_that_is_wrong_on_one_rank_ends_all_ranks(start: Callable, tmp_path: Path) -> None:
    """The images of one machine lack a file: both ranks leave with one line, not one of them waiting."""
    script = tmp_path / "differ.py"
    script.write_text("""
import os, sys
from otherview.__main__ import dispatch, _leave
words = sys.argv[1:]
if os.environ["RANK"] == "1":
    words[words.index("shapes:200")] = os.environ["OTHER_DATA"]
status = dispatch(words)
_leave()
sys.exit(status)
""")
    launcher = (*TORCHRUN[:-2], str(script))
    for other, said in (("nowhere", "nowhere does not exist"), ("shapes:201", "differ in their")):
        os.environ["OTHER_DATA"] = other
        status, told = ended(
            start(*SMALL, "--steps", "5", "--out", tmp_path / other, launcher=launcher), within=3 * SECONDS
        )
        assert status == 1  # the launcher's own
        lines = [line for line in told.splitlines() if line.startswith("otherview: ")]
        assert len(lines) == 1 and said in lines[0], told
