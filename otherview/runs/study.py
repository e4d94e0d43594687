"""The runs of a study, one process each: what is finished is skipped, what was cut short goes on.

folders = run_study(find_study("compare_cpu"), plan)

A row and seed has a folder of its own, OUT/ROW/seed-N, with the log of its processes beside it.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from otherview.bench.contenders import flops_per_image
from otherview.config import RunConfig, to_yaml
from otherview.errors import Stopped, WrongRequest
from otherview.files import alone_in, write_atomically
from otherview.launch import stop_requests
from otherview.recipes.studies import Study
from otherview.runs.cost import in_steps
from otherview.runs.run_folder import settings_that_differ
from otherview.scores import results_of_run
from otherview.training.settings import DeviceName

DRAWN = 2000, 1000
"""Drawn images whose pixels a linear head learns to name and is judged on: the dense measure, whatever the data."""


MEASURES = {
    "knn": "knn_encoder_mean",
    "linear": "linear_encoder_mean",
    "few-shot": "few_shot_encoder_mean (1 %) (crop pct 1)",
    "linear-segment": "linear_segment_encoder_miou",
    "retrieval": "retrieval_encoder",
    "finetune": "finetune_encoder (protocol paper, epochs 5, batch 128, rate 0.004, crop pct 1)",
}
"""Protocols of `evaluate` that a study may ask for, by the first score of each."""
PROTOCOL: dict[str, dict[str, float | str]] = {
    "few-shot": {"crop_pct": 1},
    "finetune": {
        "protocol": "paper", "crop_pct": 1, "epochs": 5, "batch": 128, "rate": 4e-3, "augment": "none", "mixup": 0,
        "cutmix": 0, "erasing": 0, "drop_path": 0,
    },
}  # fmt: skip
"""What small images and little time want otherwise than by default."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a study is run."""

    data: str
    """Images to train on, and the labelled ones that features are learned from."""
    test: str
    out: Path
    rows: tuple[str, ...]
    """Which; none: all."""
    seeds: tuple[int, ...]
    equal: str
    steps: int | None
    size: int | None
    """Side of the images in pixels; patches grow with it, so that there are as many of them."""
    measures: tuple[str, ...]
    """Protocols of `evaluate` that judge a run."""
    allow_shared: bool
    """Judge although `data` and `test` share images."""
    at_once: int
    threads: int
    device: DeviceName


@dataclass(frozen=True)
class Task:
    """One row with one seed."""

    row: str
    config: RunConfig
    folder: Path

    def commands(self, plan: Plan) -> Iterator[list[str]]:
        """What is left to do: pre-training, which knows by itself where it stopped, then what has no result yet."""
        program, where = [sys.executable, "-m", "otherview"], ["--threads", str(plan.threads), "--device", plan.device]
        watch = ["--knn-bank", plan.data, "--knn-test", plan.test, "--knn-every", str(max(1, self.steps // 6))]
        if not (self.folder / "summary.json").exists():
            words = ["--config", str(self.planned), "--data", plan.data, "--out", str(self.folder), *watch]
            yield [*program, "pretrain", *words, *where]
        labelled = plan.data, plan.test
        size = max(self.config.encoder.image_size)
        drawn = f"shapes:{DRAWN[0]}@{size}", f"shapes:{DRAWN[1]}:test@{size}"
        judged = results_of_run(self.folder)
        for kind in plan.measures:
            train, test = drawn if kind == "linear-segment" else labelled
            asked = {} if kind == "retrieval" else {"train": train}
            asked |= {"test": test, **PROTOCOL.get(kind, {})}
            known = [line for line in judged if line["scores"][0]["name"] == MEASURES[kind]]
            if not any(all(line.get(name) == value for name, value in asked.items()) for line in known):
                words = [word for name, value in asked.items() for word in (f"--{name.replace('_', '-')}", str(value))]
                words += ["--allow-shared"] if plan.allow_shared and "train" in asked else []
                words += ["--no-control"] if kind == "finetune" else []
                yield [*program, "evaluate", kind, "--weights", str(self.folder), *words, *where]

    @property
    def planned(self) -> Path:
        """The file of its config, beside its folder."""
        return self.folder.with_name(f"{self.folder.name}.yaml")

    @property
    def steps(self) -> int:
        assert self.config.steps is not None
        return self.config.steps


Running = dict[Task, tuple[Iterator[list[str]], "subprocess.Popen[bytes]"]]


def tasks_of(study: Study, plan: Plan) -> list[Task]:
    """All rows with all seeds, seeds outermost, so that whole tables fill one after another; configs are written out.

    Studies may share a folder, and rows that they have in common. Raises WrongRequest where it holds runs on other data
    or a run with other settings.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    with alone_in(plan.out):
        return _tasks_of(study, plan)


def _tasks_of(study: Study, plan: Plan) -> list[Task]:
    configs = _equal(study.rows(), plan)
    if unknown := set(plan.rows) - set(configs):
        raise WrongRequest(f"{study.name} has no row {min(unknown)!r}: there are {', '.join(configs)}")
    identity = plan.out / "study.json"
    about = json.dumps({"data": plan.data, "test": plan.test})
    if identity.exists() and identity.read_text(encoding="utf-8") != about:
        raise WrongRequest(
            f"--out {plan.out} holds runs on {identity.read_text(encoding='utf-8')}: give another folder"
        )
    write_atomically(identity, about.encode())
    found = [
        Task(row, config.model_copy(update={"seed": seed}), plan.out / row.replace(" ", "-") / f"seed-{seed}")
        for seed in plan.seeds
        for row, config in configs.items()
        if not plan.rows or row in plan.rows
    ]
    for task in found:
        for known in (task.folder / "config.yaml", task.planned):  # begun, or planned by a study that waits
            if changed := settings_that_differ(known, task.config):
                raise WrongRequest(f"{known} is of a run with other settings ({changed[0]}): give another --out")
        task.folder.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(task.planned, to_yaml(task.config).encode())
    return found


def _equal(configs: dict[str, RunConfig], plan: Plan) -> dict[str, RunConfig]:
    """The rows in as many steps as the images, or the compute, of the first row pay for.

    A variant of the first row's method warms up for as many steps as that row; another method has its own share of the run.
    """
    configs = {row: _sized(config, plan.size) for row, config in configs.items()}
    if plan.equal == "compute":
        costs = {row: flops_per_image(config) * config.batch for row, config in configs.items()}
    else:
        costs = {row: config.batch for row, config in configs.items()}
    first, first_cost = next(iter(configs.values())), next(iter(costs.values()))
    whole = plan.steps or first.steps or 1
    share = in_steps(first, whole).training.warmup

    def budgeted(config: RunConfig, cost: float) -> RunConfig:
        steps, training = max(1, round(whole * first_cost / cost)), config.training
        if config.method.name == first.method.name:
            warmup = share if steps == whole else min(share * whole / steps, 0.5)
            training = training.model_copy(update={"warmup": warmup})
        return config.model_copy(update={"steps": steps, "training": training})

    return {row: budgeted(config, costs[row]) for row, config in configs.items()}


def _sized(config: RunConfig, size: int | None) -> RunConfig:
    """The config for square images of another side with as many patches."""
    if size is None:
        return config
    across = max(config.encoder.image_size) // config.encoder.patch_size
    if size < across or size % across:
        raise WrongRequest(f"--size {size} does not divide into {across} patches: give a multiple of {across}")
    sized = {"image_size": (size, size), "patch_size": size // across}
    return config.model_copy(update={"encoder": config.encoder.model_copy(update=sized)})


def run_study(study: Study, plan: Plan) -> dict[Path, str]:
    """Run what is left, `at_once` processes at a time; returns the folders with the names of their rows.

    Raises Stopped where a signal asks for it, after the runs have written their checkpoints, and RuntimeError at the end
    with the logs' names where processes have failed; the other rows are run all the same.
    """
    try:
        tasks = tasks_of(study, plan)
    except OSError as error:
        raise WrongRequest(
            f"--out {plan.out} cannot be written ({error.strerror}): choose a folder that you can write to"
        ) from error
    waiting, running, failed = list(tasks), Running(), list[Task]()
    with stop_requests() as asked:
        try:
            while (running or waiting) and not asked():
                while waiting and len(running) < plan.at_once:
                    _next(running, task := waiting.pop(0), commands=task.commands(plan))
                for task, (commands, process) in list(running.items()):
                    if (status := process.poll()) is None:
                        continue
                    del running[task]
                    if status == 0:
                        _next(running, task, commands=commands)
                    else:
                        print(f"{task.row}, seed {task.config.seed}: failed with status {status}", file=sys.stderr)
                        failed.append(task)
                time.sleep(0.2)
        finally:
            for _, process in running.values():
                process.terminate()
            for _, process in running.values():
                process.wait()
        if asked():
            raise Stopped(f"{study.name} was stopped; run the same command to continue")
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(tasks)} runs failed: see {', '.join(str(_log(task)) for task in failed)}"
        )
    return {task.folder: task.row for task in tasks}


def _log(task: Task) -> Path:
    return task.folder.with_name(f"{task.folder.name}.log")


def _next(running: Running, task: Task, *, commands: Iterator[list[str]]) -> None:
    """Start the task's next command, if it has one."""
    for command in commands:
        print(f"{task.row}, seed {task.config.seed}: {' '.join(command[3:5])} (see {_log(task)})", file=sys.stderr)
        with _log(task).open("ab") as log:
            running[task] = commands, subprocess.Popen(command, stdout=log, stderr=log)
        return
