"""What may go wrong for a while and not for long: steps that are not finite, images that cannot be read.

Each is counted in the run's tally, named, and ends the run where there are too many.
"""

import json
from collections.abc import Sequence

import torch

from otherview.data.loader import Sample
from otherview.distributed import gather_objects, rank, ranks
from otherview.errors import BrokenImage
from otherview.training.state import RunState
from otherview.training.step import Outcome

FILE = "nonfinite.jsonl"
ENOUGH_TO_JUDGE = 200
"""So many images must have been asked for before a share of broken ones means anything."""


def count_skipped(run: RunState, outcome: Outcome, samples: Sequence[Sample], step: int) -> str | None:
    """What to say of a step, if it was skipped; raises FloatingPointError after too many in a row."""
    tally = run.tally
    if outcome.finite:
        tally.skipped_in_a_row = 0
        return None
    tally.skipped += 1
    tally.skipped_in_a_row += 1
    _write(run, outcome, samples, step)
    said = f"step {step} was skipped: loss {outcome.numbers['loss']}, gradient norm {outcome.numbers['grad_norm']}"
    if tally.skipped_in_a_row >= run.settings.max_skipped:
        raise FloatingPointError(
            f"{said}, {tally.skipped_in_a_row} in a row (the images are in {run.folder / FILE}): lower "
            "training.lr_per_256 or use training.precision fp32, and start again with --fresh"
        )
    return said


def _write(run: RunState, outcome: Outcome, samples: Sequence[Sample], step: int) -> None:
    """Every rank writes which images it held; a line is written at once, so that ranks do not mix."""
    images = [index for sample in samples for index in torch.as_tensor(sample.read).reshape(-1).tolist()]
    numbers = {name: str(value) for name, value in outcome.numbers.items()}
    line = json.dumps({"step": step, "rank": rank(), "images": images, **numbers})
    with (run.folder / FILE).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def count_broken(run: RunState, outcome: Outcome, samples: Sequence[Sample]) -> list[str]:
    """What to say of images that could not be read, each once.

    The outcome's mean over ranks has been read by all hosts: all decide alike, and a step without broken images
    costs nothing more.
    """
    tally = run.tally
    tally.samples += run.batch
    if not outcome.broken:
        return []
    tally.replaced += round(outcome.broken * ranks())
    mine = [index for sample in samples for index in sample.replaced()]
    new = sorted({index for part in gather_objects(mine) for index in part} - tally.broken)
    tally.broken.update(new)
    return [f"broken image {run.name_of(index)}: replaced by the next readable one" for index in new]


def refuse_too_many_broken(run: RunState) -> None:
    """Raise BrokenImage where a larger share of images cannot be read than the settings allow."""
    tally = run.tally
    if tally.samples >= ENOUGH_TO_JUDGE and tally.replaced > run.settings.max_broken * tally.samples:
        raise BrokenImage(
            f"{tally.replaced} of {tally.samples} images cannot be read ({run.name_of(min(tally.broken))} for one), more "
            f"than training.max_broken {run.settings.max_broken:.0%}: otherview doctor names them all and why"
        )
