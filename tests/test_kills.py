"""SIGKILL at random moments, the middle of a checkpoint's write among them: the end is the same, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from otherview.training.journal import read_journal
from tests.test_training import SMALL, identical

STEPS = 60
QUICK = {**os.environ, "OTHERVIEW_TYPECHECK": "0"}
COMMAND = (*SMALL[:-4], "--threads", "1", "--device", "cpu", "--steps", str(STEPS), "--training.save-every", "1")


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "otherview", *COMMAND, "--out", str(out)]


def kill_once(out: Path, chance: random.Random) -> bool:
    """Start the run and kill it while a checkpoint is written, or a random while after it took up work; False: it ended."""
    process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=QUICK)
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
    return process.returncode == -signal.SIGKILL


def survives(tmp_path: Path, *, kills: int) -> int:
    """Kill a run again and again, let it end, compare; returns how many kills struck."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert subprocess.run(command(whole), capture_output=True, timeout=300, env=QUICK).returncode == 0
    chance, struck = random.Random(0), 0
    for _ in range(kills):
        struck += kill_once(out, chance)
        if (out / "summary.json").exists():
            break
    done = subprocess.run(command(out), capture_output=True, text=True, timeout=300, env=QUICK)
    assert done.returncode == 0, done.stderr
    assert identical(whole, out)
    keep = ("step", "loss", "grad_norm", "effective_rank", "lr")
    one, two = (
        [[line[name] for name in keep] for line in read_journal(folder / "metrics.jsonl") if "loss" in line]
        for folder in (whole, out)
    )
    assert one == two
    return struck


@pytest.mark.slow
def test_three_kills_at_random_moments_kill(tmp_path: Path) -> None:
    assert survives(tmp_path, kills=3) == 3


@pytest.mark.soak
def test_twenty_kills_at_random_moments_kill(tmp_path: Path) -> None:
    struck = sum(survives(tmp_path / str(part), kills=5) for part in range(4))
    assert struck >= 18
    print(f"{struck} kills, every run ended with the weights of an undisturbed one")
