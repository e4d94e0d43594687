"""The run folder: start, continue, or refuse, before anything heavy is imported."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from otherview.atomic import write_atomically
from otherview.config import RunConfig, changed_settings, config_hash, load_config, to_yaml
from otherview.errors import WrongRequest
from otherview.methods.settings import SupervisedSettings
from otherview.training.launch import launched_rank

State = Literal["new", "started", "finished"]


def prepare_folder(out: Path, config: RunConfig, *, data: str, images: int, fresh: bool) -> tuple[State, list[str]]:
    """Make or check the folder; returns its state and what has to be said.

    Raises WrongRequest where it cannot be written, or holds a run with other settings or on another number of images.
    """
    said: list[str] = []
    if launched_rank() > 0:  # rank 0 prepares and refuses for all; its refusal ends the job
        return ("finished" if summary_of(out) and not fresh else "started"), said
    try:
        if fresh and (out / "config.yaml").exists():
            aside = out.with_name(f"{out.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
            with only_writer(out):
                out.rename(aside)
            said.append(f"moved the former run to {aside}")
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(13, "permission denied")
    except OSError as error:
        raise WrongRequest(f"--out {out} cannot be written ({error.strerror}): choose a folder that you own") from error
    if not (out / "config.yaml").exists():
        write_atomically(out / "data.json", json.dumps({"data": data, "images": images}).encode())
        write_atomically(out / "config.yaml", (_header(data) + to_yaml(config)).encode())
        return "new", said
    before = load_config(out / "config.yaml")
    if changed := changed_settings(before, config):
        raise WrongRequest(
            f"--out {out} holds a run with other settings ({'; '.join(changed[:4])}{' …' if len(changed) > 4 else ''}): "
            "give the same settings to continue, another --out, or --fresh to start over"
        )
    known = json.loads((out / "data.json").read_text(encoding="utf-8")) if (out / "data.json").exists() else {}
    if known.get("images", images) != images:
        raise WrongRequest(
            f"--out {out} holds a run on the {known['images']:,} images of {known['data']}, and --data {data} has {images:,}: "
            "give those to continue, another --out, or --fresh to start over"
        )
    if known.get("data", data) != data:
        said.append(f"this run began on {known['data']}; --data {data} has as many images and is taken for the same")
    return ("finished" if summary_of(out) else "started"), said


def settings_that_differ(path: Path, config: RunConfig) -> list[str]:
    """What the run of this file, if there is one, has otherwise; classes that were taken from the data are no difference."""
    if not path.exists():
        return []
    before = load_config(path)
    asked, had = config.method, before.method
    if isinstance(asked, SupervisedSettings) and isinstance(had, SupervisedSettings) and asked.classes is None:
        before = before.model_copy(update={"method": had.model_copy(update={"classes": None})})
    return changed_settings(before, config)


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Within, no other run writes to the folder; raises WrongRequest where one does.

    A record lock, which ends with its process: one of flock's would live on in the loader's workers after a kill.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    if launched_rank() > 0:
        yield
        return
    with (out / "lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise WrongRequest(f"--out {out} is being written by another run: wait for it, or stop it") from error
        except OSError:  # a file system without locks
            pass
        yield


def _header(data: str) -> str:
    return f"# otherview pretrain --config config.yaml --data {data}\n"


def write_summary(out: Path, config: RunConfig, summary: dict[str, Any]) -> None:
    """Mark a run as finished."""
    write_atomically(
        out / "summary.json", json.dumps({**summary, "config_hash": config_hash(config)}, indent=1).encode()
    )


def summary_of(out: Path) -> dict[str, Any] | None:
    """How the run in a folder ended, if it has."""
    path = out / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
