"""SIGKILL at random moments, the middle of a checkpoint's write among them: the end is the same, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from otherview.errors import WrongRequest
from otherview.files import json_lines, only_writer
from otherview.recipes.registry import find
from otherview.runs.run_folder import prepare_folder
from tests.test_training import SMALL, identical

STEPS = 60

COMMAND = (*SMALL[:-4], "--threads", "1", "--device", "cpu", "--steps", str(STEPS), "--training.save-every", "1")


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "otherview", *COMMAND, "--out", str(out)]


def kill_once(out: Path, chance: random.Random) -> bool:
    """Start the run and kill it while a checkpoint is written, or a random while after it took up work; False: it ended."""
    process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last, partial = out / "checkpoints/last.pt", out / "checkpoints/new.pt.tmp"
    before = last.stat().st_mtime_ns if last.exists() else 0
    while process.poll() is None and (not last.exists() or last.stat().st_mtime_ns == before):
        time.sleep(0.002)
    if chance.random() < 0.5:
        patience = time.monotonic() + 5
        while process.poll() is None and not partial.exists() and time.monotonic() < patience:
            pass
    else:
        time.sleep(chance.uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode in (0, -signal.SIGKILL), process.returncode  # it never refuses to take up its work
    return process.returncode == -signal.SIGKILL


def survives(tmp_path: Path, *, kills: int) -> None:
    """Kill runs until so many kills struck, at most five each; every one of them ends as the undisturbed one.

    A kill that comes too late finds its run ended, on a busy machine: the next run takes the rest.
    """
    whole = tmp_path / "whole"
    assert subprocess.run(command(whole), capture_output=True, timeout=300).returncode == 0
    chance, struck, runs = random.Random(0), 0, 0
    while struck < kills:
        assert runs < kills, f"only {struck} of {kills} kills struck in {runs} runs"
        out, runs = tmp_path / f"run{runs}", runs + 1
        for _ in range(min(5, kills - struck)):
            if not kill_once(out, chance):
                break
            struck += 1
        done = subprocess.run(command(out), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert identical(whole, out)
        assert written(whole) == written(out)


def written(run: Path) -> list[list[object]]:
    """What the journal says of every step, without the times."""
    keep = ("step", "loss", "grad_norm", "effective_rank", "lr")
    return [[line[name] for name in keep] for line in json_lines(run / "metrics.jsonl") if "loss" in line]


WRITER = """
import os, sys, time
from pathlib import Path
from otherview.files import only_writer
with only_writer(Path(sys.argv[1])):
    worker = os.fork()
    if worker:
        print(worker, flush=True)
    time.sleep(60)
"""


def test_a_folder_has_one_writer_and_is_free_once_it_was_killed_kill(tmp_path: Path) -> None:
    fresh = partial(prepare_folder, tmp_path, find("siamese_im_cpu_adamw").make(), data="a", images=100, fresh=True)
    fresh()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    worker = int(writer.stdout.readline())
    try:
        with pytest.raises(WrongRequest, match="being written by another run"), only_writer(tmp_path):
            pass
        with pytest.raises(WrongRequest, match="being written by another run"):
            fresh()
        writer.kill()
        writer.wait()
        with only_writer(tmp_path):  # though a worker of the killed run still has the file open
            os.kill(worker, 0)
    finally:
        writer.kill()
        os.kill(worker, signal.SIGKILL)


@pytest.mark.slow
def test_three_kills_at_random_moments_kill(tmp_path: Path) -> None:
    survives(tmp_path, kills=3)


@pytest.mark.soak
def test_twenty_kills_at_random_moments_kill(tmp_path: Path) -> None:
    survives(tmp_path, kills=20)
