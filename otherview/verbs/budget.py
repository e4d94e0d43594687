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
    """The config with the steps that fit into the budget, or those of the run that `out` holds already."""
    seconds = seconds_of(budget)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise WrongRequest("--time-budget measures one process: with several ranks give --steps (see --dry-run)")
    if (out / "config.yaml").exists() and not fresh:
        return config.model_copy(update={"steps": load_config(out / "config.yaml").steps})
    from otherview.verbs.dry_run import seconds_per_step

    pace = seconds_per_step(config, source, device=device, threads=threads, count=MEASURED_STEPS)
    steps = int(SPARE * seconds / pace)
    if steps < 1:
        raise WrongRequest(
            f"--time-budget {budget} is shorter than one step ({pace:.1f} s): give more, or a smaller --batch"
        )
    return config.model_copy(update={"steps": steps})
