"""What a process holds, as the kernel counts it (Linux)."""

from pathlib import Path


def status_mb(field: str) -> float:
    """VmRSS, what is held now, or VmHWM, the most that was, in MiB; raises RuntimeError where the kernel does not say."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def forget_peak() -> None:
    """VmHWM starts again from what is held now."""
    Path("/proc/self/clear_refs").write_text("5")
