"""The metrics log: one JSON line per logged step, cut back to what a checkpoint knows when a run continues."""

import json
import math
import os
from pathlib import Path
from typing import Any

from otherview.files import json_lines
from otherview.training.health import Health


class MetricsLog:
    """`metrics.jsonl`; rank 0 writes, the others hold a silent one (`path` None)."""

    def __init__(self, path: Path | None, *, length: int = 0, health: Health | None = None) -> None:
        self.path = path
        self.health = health or Health()
        """What the lines so far say; on silent ranks too."""
        if path is not None:
            with path.open("ab") as file:
                file.truncate(min(length, file.seek(0, os.SEEK_END)))
            for line in json_lines(path):
                self.health.see(line)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line; numbers that are not finite become null, as JSON has none."""
        self.health.see(line)
        if self.path is None:
            return
        clean = {name: _as_json(value) for name, value in line.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size if self.path is not None else 0


def _as_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
