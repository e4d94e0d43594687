"""No silent NaN: a step that is not finite is skipped and written down for replay; several in a row end the run."""

import json
from collections.abc import Sequence

import torch

from otherview.data.loader import Sample
from otherview.distributed import rank
from otherview.training.run import Run
from otherview.training.step import Outcome

FILE = "nonfinite.jsonl"


class NonFiniteGuard:
    """Counts steps that were skipped, in all and in a row."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.skipped = self.in_a_row = 0

    def check(self, outcome: Outcome, samples: Sequence[Sample], step: int) -> str | None:
        """What to say of a step, if it was skipped; raises FloatingPointError after too many in a row."""
        if outcome.finite:
            self.in_a_row = 0
            return None
        self.skipped += 1
        self.in_a_row += 1
        self._write(outcome, samples, step)
        said = f"step {step} was skipped: loss {outcome.numbers['loss']}, gradient norm {outcome.numbers['grad_norm']}"
        if self.in_a_row >= self.run.settings.most_skipped:
            raise FloatingPointError(
                f"{said}, {self.in_a_row} in a row (the images are in {self.run.folder / FILE}): lower "
                "training.lr_per_256 or use training.precision fp32, and start again with --fresh"
            )
        return said

    def _write(self, outcome: Outcome, samples: Sequence[Sample], step: int) -> None:
        """Every rank writes which images it held; a line is written at once, so that ranks do not mix."""
        images = [index for sample in samples for index in torch.as_tensor(sample.read).reshape(-1).tolist()]
        numbers = {name: str(value) for name, value in outcome.numbers.items()}
        line = json.dumps({"step": step, "rank": rank(), "images": images, **numbers})
        with (self.run.folder / FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
