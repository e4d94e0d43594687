"""The suite and the benches on a GPU, in under six minutes: one JSON and one Markdown table.

    make gpu                                    # or: python -m tests.gpu_report FOLDER [--photos FOLDER] [--seconds 340]

Every question is asked on its own, and its answer is written at once: what fails or runs out of time leaves the others.
OTHERVIEW_GPU_TESTS=cpu tries it on a CPU with tiny models.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from otherview.bench.loader import Photos
from otherview.files import json_lines, write_atomically

ON_CPU = os.environ.get("OTHERVIEW_GPU_TESTS") == "cpu"
DEVICE = "cpu" if ON_CPU else "cuda"
BASE = "siamese_im_vit_b16"
LATE = "no time left"
LONGEST = 240
"""Seconds for one question."""
ALONE = "--no-reference"


class Report:
    """What was found so far, on disk."""

    def __init__(self, folder: Path, seconds: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.until = folder, time.monotonic() + seconds
        self.found: dict[str, Any] = {}
        self.failed = False

    def ask(self, name: str, work: Callable[[float], Any]) -> Any:
        """The answer, kept; what went wrong in its place. `work` gets the seconds that are left to it."""
        left = min(LONGEST, self.until - time.monotonic())
        began = time.monotonic()
        try:
            answer = work(left) if left > 5 else LATE
        except Exception as error:  # the next question is worth asking all the same
            answer, self.failed = f"{type(error).__name__}: {str(error)[-600:]}", True
        self.failed |= answer == LATE
        print(f"{name} ({time.monotonic() - began:.0f} s): {json.dumps(answer)}", flush=True)
        self.found[name] = answer
        write_atomically(self.folder / "gpu.json", json.dumps(self.found, indent=1).encode())
        write_atomically(self.folder / "gpu.md", "\n".join([*table(self.found), ""]).encode())
        return answer


def run(*words: str | Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """A command whose failure is an error that quotes its end."""
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}: {(done.stderr + done.stdout)[-500:]}")
    return done


def otherview(*words: str | Path, seconds: float) -> dict[str, Any]:
    return json.loads(run("-m", "otherview", *words, "--json", seconds=seconds).stdout)


def about(_: float) -> dict[str, str]:
    try:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    except OSError:
        commit = ""
    card = "CPU" if ON_CPU else torch.cuda.get_device_name()
    versions = {"torch": torch.__version__, "CUDA": str(torch.version.cuda), "cores": str(os.cpu_count())}
    return {"card": card, "commit": commit or "unknown", **versions}


def suite(seconds: float, log: Path) -> str:
    """The last lines of the tests; raises RuntimeError where some failed, or did not end in time."""
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py", "-p", "no:cacheprovider", "-rP"]
    at_once = ["-n", "4"] if find_spec("xdist") else []
    with subprocess.Popen(
        [*words, *at_once], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as tests:
        try:
            said, late = tests.communicate(timeout=seconds)[0], ""
        except subprocess.TimeoutExpired:
            os.killpg(tests.pid, signal.SIGKILL)  # and what its tests have started
            said, late = tests.communicate()[0], f"not done after {seconds:.0f} s"
    write_atomically(log, said.encode())
    lines = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR")) or " in " in line]
    told = " · ".join([*lines[-8:], *filter(None, [late])]) or said[-600:]
    if tests.returncode:
        raise RuntimeError(told)
    return told


def step(*words: str) -> Callable[[float], dict[str, Any]]:
    """`bench step` with these words; on a CPU with a tiny model."""
    if ON_CPU:
        words = (*words, "--recipe", "siamese_im_cpu_adamw", "--batch", "8")
    return lambda seconds: otherview("bench", "step", "--device", DEVICE, *words, seconds=seconds)


def pretrain(report: Report, photos: Path, recipe: str, *flags: str) -> Callable[[float], dict[str, float]]:
    """A real run from JPEGs: its pace and the share of the time it waited, without its first third."""

    def work(seconds: float) -> dict[str, float]:
        out = report.folder / f"run-{recipe}"
        workers = max(1, (os.cpu_count() or 2) - 1)
        otherview(
            "pretrain", "--recipe", recipe, "--data", ",".join([str(photos)] * 4), "--out", out, "--fresh", *flags,
            "--device", DEVICE, "--training.workers", str(workers), "--training.log-every", "10", seconds=seconds,
        )  # fmt: skip
        lines = [line for line in json_lines(out / "metrics.jsonl") if "images_per_second" in line]
        first, last = lines[len(lines) // 3], lines[-1]
        spent = [line["images"] / line["images_per_second"] for line in (first, last)]
        waited = [line["waited"] * seconds for line, seconds in zip((first, last), spent, strict=True)]
        took = spent[1] - spent[0]
        rate = (last["images"] - first["images"]) / took
        found = {"images_per_second": round(rate, 1), "waited": round((waited[1] - waited[0]) / took, 4)}
        if isinstance(model := report.found.get("B/16 eager"), dict):
            share = rate * model["gflops_per_image"] / 1e3 / model["matmul_peak_tflops"]
            found["share_of_matmul_peak"] = round(share, 3)
        return found

    return work


def drawn_photos(folder: Path) -> Path:
    """Photos as JPEG files, where none are given."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Photos()
    for index in range(len(source)):
        for copy in range(8):
            (folder / f"{index}-{copy}.jpg").write_bytes(source.read(index))
    return folder


def table(found: dict[str, Any]) -> list[str]:
    """The steps and runs as one table, the rest as lines."""
    known = found.get("about", {})
    lines = [" · ".join(f"{name} {value}" for name, value in known.items()), ""]
    columns = "images_per_second", "share_of_matmul_peak", "peak_memory_mb", "waited"
    lines += [f"| what | {' | '.join(columns)} |", "|---|---|---|---|---|"]
    for name, row in found.items():
        if isinstance(row, dict) and ("waited" in row or "ours_images_per_second" in row):
            row = {**row, "images_per_second": row.get("images_per_second", row.get("ours_images_per_second"))}
            lines.append(f"| {name} | {' | '.join(str(row.get(column, '')) for column in columns)} |")
    others = {name: row for name, row in found.items() if name != "about" and f"| {name} |" not in "\n".join(lines)}
    return [*lines, "", *(f"- {name}: {json.dumps(row)}" for name, row in others.items())]


def skipped() -> int:
    """Without a GPU the suite names what it skips; its last line is said once more, at the very end."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"], stdout=subprocess.PIPE, text=True
    )
    print(done.stdout, *(line for line in done.stdout.splitlines() if line.startswith("no GPU")), sep="\n")
    return done.returncode


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; default: drawn ones")
    parser.add_argument("--seconds", type=float, default=340.0)
    given = parser.parse_args()
    if not ON_CPU and not torch.cuda.is_available():
        raise SystemExit(skipped())
    report = Report(given.folder, given.seconds)
    report.ask("about", about)
    report.ask("suite", lambda seconds: suite(seconds, given.folder / "suite.log"))
    photos = given.photos or drawn_photos(given.folder / "photos")
    report.ask("B/16 eager", step("--recipe", BASE, "--trace", str(given.folder / "step.json.gz")))
    few = ["--batch", "8", "--steps", "30"] if ON_CPU else ["--batch", "256", "--steps", "60"]
    report.ask("B/16 from JPEGs", pretrain(report, photos, "siamese_im_cpu_adamw" if ON_CPU else BASE, *few))
    report.ask("B/16 compiled by blocks", step("--recipe", BASE, ALONE, "--compile", "blocks"))
    report.ask("B/16 compiled as a whole", step("--recipe", BASE, ALONE, "--compile", "whole"))
    report.ask("S/16 eager", step(ALONE))
    report.ask("L/16 eager", step("--recipe", "siamese_im_vit_l16", ALONE, "--batch", "96"))
    report.ask("loss", lambda seconds: otherview("bench", "loss", "--device", DEVICE, seconds=seconds))
    workers = str(os.cpu_count())
    report.ask("loader", lambda seconds: otherview("bench", "loader", "--workers", workers, seconds=seconds))
    report.ask("S/16 compiled as a whole", step(ALONE, "--compile", "whole"))
    raise SystemExit(int(report.failed))


if __name__ == "__main__":
    main()
