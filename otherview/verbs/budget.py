"""A run as long as there is time: the pace is measured once, and the steps it allows are frozen into the run's config."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from otherview.config import RunConfig, load_config
from otherview.errors import WrongRequest
from otherview.verbs.request import DeviceName

if TYPE_CHECKING:
    from otherview.data.source import Source

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
MEASURED_STEPS = 8
SPARE = 0.95
"""Share of the budget that is planned for steps; checkpoints, looks and exports take the rest."""


def seconds_of(budget: str) -> float:
    """'90s', '30m', '1.5h' or '2d' in seconds; raises WrongRequest for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", budget)
    if not match or float(match[1]) == 0:
        raise WrongRequest(f"--time-budget {budget} is no time: write 90s, 30m, 1.5h or 2d")
    return float(match[1]) * UNITS[match[2]]


def within_budget(
    config: RunConfig, source: "Source", *, budget: str, out: Path, fresh: bool, device: DeviceName, threads: int | None
) -> RunConfig:
    """The config in the steps that fit into the budget, or those of the run that `out` holds already."""
    seconds = seconds_of(budget)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise WrongRequest("--time-budget measures one process: with several ranks give --steps (see --dry-run)")
    if (out / "config.yaml").exists() and not fresh:
        return in_steps(config, load_config(out / "config.yaml").steps or 1)
    from otherview.verbs.dry_run import seconds_per_step

    pace = seconds_per_step(config, source, device=device, threads=threads, count=MEASURED_STEPS)
    steps = int(SPARE * seconds / pace)
    if steps < 1:
        raise WrongRequest(
            f"--time-budget {budget} is shorter than one step ({pace:.1f} s): give more, or a smaller --batch"
        )
    return in_steps(config, steps)


def in_steps(config: RunConfig, steps: int) -> RunConfig:
    """The config with so many steps; where they are fewer than its own, the warm-up keeps its steps, up to half of them.

    Targets stay on a plateau where the rate climbs too fast, however long the run is (docs/log.md).
    """
    warmup = config.training.warmup
    if config.steps and steps < config.steps:
        warmup = max(warmup, min(warmup * config.steps / steps, 0.5))
    return config.model_copy(update={"steps": steps, "training": config.training.model_copy(update={"warmup": warmup})})
