"""Where the time of a step goes: a trace for a viewer, and the operations that cost most.

traced(step, Path("step.json.gz"), device)       # [{"operation": …, "milliseconds": …, "share": …, "calls": …}, …]

The file opens in ui.perfetto.dev or chrome://tracing, from the disk.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.profiler import ProfilerActivity, profile

from otherview.training.device import finish

SHOWN = 10
STEPS = 2


def traced(step: Callable[[], None], path: Path, device: torch.device) -> list[dict[str, Any]]:
    """Writes the trace of some steps; the costliest operations of one step by their own time on the device."""
    kinds = {"cuda": ProfilerActivity.CUDA, "xpu": ProfilerActivity.XPU}
    step()
    finish(device)
    with profile(activities=[ProfilerActivity.CPU, *(kinds[kind] for kind in kinds if kind == device.type)]) as record:
        for _ in range(STEPS):
            step()
        finish(device)
    record.export_chrome_trace(str(path))
    return costliest(record.key_averages(), on_device=device.type in kinds)


def costliest(events: Iterable[Any], *, on_device: bool) -> list[dict[str, Any]]:
    """The rows that took most of a step by their own time.

    On a device its kernels alone: an operation's row holds the time of its kernels once more, and so do annotations.
    """
    if on_device:
        events = [row for row in events if row.device_type != DeviceType.CPU and not row.is_user_annotation]
    clock = "self_device_time_total" if on_device else "self_cpu_time_total"
    rows = [(row.key, float(getattr(row, clock)), row.count) for row in events]
    total = max(1e-9, sum(time for _, time, _ in rows))
    return [
        {
            "operation": name[:80],
            "milliseconds": round(time / 1e3 / STEPS, 3),
            "share": round(time / total, 3),
            "calls": count // STEPS,
        }
        for name, time, count in sorted(rows, key=lambda row: -row[1])[:SHOWN]
    ]
