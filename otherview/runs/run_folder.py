"""The run folder: start, continue, or refuse."""

import json
import time
from pathlib import Path
from typing import Any, Literal

from otherview.config import RunConfig, changed_settings, config_hash, load_config, to_yaml
from otherview.errors import WrongRequest
from otherview.files import make_folder, only_writer, write_atomically
from otherview.methods.settings import SupervisedSettings

State = Literal["new", "started", "finished"]


def prepare_folder(out: Path, config: RunConfig, *, data: str, images: int, fresh: bool) -> tuple[State, list[str]]:
    """Make or check the folder, on rank 0; returns its state and what has to be said.

    Raises WrongRequest where it cannot be written, or holds a run with other settings or on another number of images.
    """
    said: list[str] = []
    if fresh and (out / "config.yaml").exists():
        aside = out.with_name(f"{out.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
        try:
            with only_writer(out):
                out.rename(aside)
        except OSError as error:
            raise WrongRequest(
                f"--out {out} cannot be moved aside ({error.strerror}): choose another folder"
            ) from error
        said.append(f"moved the former run to {aside}")
    make_folder(out)
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
        said.append(
            f"this run began on {known['data']}; --data {data} has as many images and is assumed to be the same data"
        )
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
