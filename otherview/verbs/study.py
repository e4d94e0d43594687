"""The runs of a study, one process each: what is finished is skipped, what was cut short goes on.

folders = run_study(find_study("compare_pico"), plan)

A row and seed has a folder of its own, OUT/ROW/seed-N, with the log of its processes beside it.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from otherview.atomic import write_atomically
from otherview.config import RunConfig, to_yaml
from otherview.errors import WrongRequest
from otherview.recipes.studies import Study
from otherview.training.run import Stopped

DRAWN = 2000, 1000
"""Drawn images whose pixels a linear head learns to name and is judged on: the dense measure, whatever the data."""


@dataclass(frozen=True)
class Plan:
    """How a study is run."""

    data: str
    """Images to train on, and the labelled ones that features are learned from."""
    test: str
    out: Path
    seeds: tuple[int, ...]
    equal: str
    steps: int | None
    at_once: int
    threads: int


@dataclass(frozen=True)
class Task:
    """One row with one seed."""

    row: str
    config: RunConfig
    folder: Path

    def commands(self, plan: Plan) -> Iterator[list[str]]:
        """What is left to do: pre-training, which knows by itself where it stopped, then what has no result yet."""
        program, threads = [sys.executable, "-m", "otherview"], ["--threads", str(plan.threads)]
        config = self.folder.parent / f"{self.folder.name}.yaml"
        watch = ["--knn-bank", plan.data, "--knn-test", plan.test, "--knn-every", str(max(1, self.steps // 6))]
        if not (self.folder / "summary.json").exists():
            words = ["--config", str(config), "--data", plan.data, "--out", str(self.folder), *watch]
            yield [*program, "pretrain", *words, *threads]
        found, labelled = self.folder / "results.jsonl", (plan.data, plan.test)
        size = max(self.config.encoder.image_size)
        drawn = f"shapes:{DRAWN[0]}@{size}", f"shapes:{DRAWN[1]}:test@{size}"
        for kind, (train, test) in {"knn": labelled, "linear": labelled, "segment": drawn}.items():
            if not (found.exists() and f'"{kind}_encoder_' in found.read_text(encoding="utf-8")):
                words = ["--weights", str(self.folder), "--train", train, "--test", test]
                yield [*program, "evaluate", kind, *words, *threads]

    @property
    def steps(self) -> int:
        assert self.config.steps is not None
        return self.config.steps


def tasks_of(study: Study, plan: Plan) -> list[Task]:
    """All rows with all seeds, seeds outermost, so that whole tables fill one after another; configs are written out."""
    configs = _equal(study.rows(), plan)
    found = []
    for seed in plan.seeds:
        for row, config in configs.items():
            folder = plan.out / row.replace(" ", "-") / f"seed-{seed}"
            task = Task(row, config.model_copy(update={"seed": seed}), folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder.with_name(f"{folder.name}.yaml"), to_yaml(task.config).encode())
            found.append(task)
    return found


def _equal(configs: dict[str, RunConfig], plan: Plan) -> dict[str, RunConfig]:
    """The rows with equal steps, or with as many as the first row's compute pays for."""
    configs = {row: c.model_copy(update={"steps": plan.steps or c.steps}) for row, c in configs.items()}
    if plan.equal == "images":
        return configs
    from otherview.bench.flops import flops_per_image

    first = next(iter(configs.values()))
    budget = flops_per_image(first) * (first.steps or 0)
    return {
        row: c.model_copy(update={"steps": max(1, round(budget / flops_per_image(c)))}) for row, c in configs.items()
    }


def run_study(study: Study, plan: Plan) -> dict[Path, str]:
    """Run what is left, `at_once` processes at a time; returns the folders with the names of their rows.

    Raises Stopped where a signal asks for it, after the runs have written their checkpoints, and RuntimeError with the
    log's name where a process fails.
    """
    try:
        tasks = tasks_of(study, plan)
    except OSError as error:
        raise WrongRequest(
            f"--out {plan.out} cannot be written ({error.strerror}): choose a folder of yours"
        ) from error
    waiting, running = list(tasks), dict[Task, tuple[Iterator[list[str]], subprocess.Popen[bytes]]]()
    asked: list[int] = []
    before = {number: signal.signal(number, lambda n, _: asked.append(n)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while running or (waiting and not asked):
            while waiting and len(running) < plan.at_once and not asked:
                _next(running, task := waiting.pop(0), task.commands(plan))
            for task, (commands, process) in list(running.items()):
                if (status := process.poll()) is None:
                    continue
                del running[task]
                if status not in (0, 75):
                    raise RuntimeError(f"{task.row} failed with status {status}: see {_log(task)}")
                if not asked:
                    _next(running, task, commands)
            if asked:
                for _, process in running.values():
                    process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
    finally:
        for _, process in running.values():
            process.terminate()
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise Stopped(f"{study.name} was stopped; run the same command to continue")
    return {task.folder: task.row for task in tasks}


def _log(task: Task) -> Path:
    return task.folder.with_name(f"{task.folder.name}.log")


def _next(
    running: dict[Task, tuple[Iterator[list[str]], subprocess.Popen[bytes]]], task: Task, commands: Iterator[list[str]]
) -> None:
    """Start the task's next command, if it has one."""
    for command in commands:
        print(f"{task.row}, seed {task.config.seed}: {command[3]} (see {_log(task)})", file=sys.stderr)
        with _log(task).open("ab") as log:
            running[task] = commands, subprocess.Popen(command, stdout=log, stderr=log)
        return
