"""The run folder: start, continue, or refuse; and the pictures in it.

Pictures are the views before a run begins, and what the encoder makes of images when it has ended.
"""

import json
import time
from pathlib import Path
from typing import Any, Literal

from otherview.config import RunConfig, changed_settings, config_hash, load_config, to_yaml
from otherview.data.source import Source
from otherview.errors import WrongRequest
from otherview.evaluation.token_pictures import attention_figure, components_figure
from otherview.files import make_folder, only_writer, write_atomically
from otherview.launch import launched_rank
from otherview.methods.settings import MoCoV3Settings, SiameseIMSettings, SupervisedSettings
from otherview.report import pictures
from otherview.report.run_page import PICTURES, keep_picture, said_and_passed_over
from otherview.report.settings import ViewsSettings
from otherview.report.view_pictures import grid_of, pairs_of
from otherview.weights.names import load_encoder

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
        write_atomically(out / "config.yaml", (_header(config, data) + to_yaml(config)).encode())
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


def note_watched(out: Path, bank: str | None, test: str | None) -> None:
    """Keep which images the online kNN looks at, so that runs watched on different ones are not drawn together."""
    path = out / "data.json"
    if bank is None or not path.exists():
        return
    known = json.loads(path.read_text(encoding="utf-8"))
    if "knn_bank" not in known:  # curves of a continued run stay those of the images that it began with
        write_atomically(path, json.dumps(known | {"knn_bank": bank, "knn_test": test}).encode())


def settings_that_differ(path: Path, config: RunConfig) -> list[str]:
    """What the run of this file, if there is one, has otherwise; what was taken from the data is no difference."""
    if not path.exists():
        return []
    before = load_config(path)
    if not config.views.ranges:
        before = before.model_copy(update={"views": before.views.model_copy(update={"ranges": {}})})
    asked, had = config.method, before.method
    if isinstance(asked, SupervisedSettings) and isinstance(had, SupervisedSettings) and asked.classes is None:
        before = before.model_copy(update={"method": had.model_copy(update={"classes": None})})
    return changed_settings(before, config)


def _header(config: RunConfig, data: str) -> str:
    start = " --init WEIGHTS" if config.start_from else ""
    return f"# otherview pretrain --config config.yaml --data {data}{start}\n"


def write_summary(out: Path, config: RunConfig, summary: dict[str, Any]) -> None:
    """Mark a run as finished."""
    write_atomically(
        out / "summary.json", json.dumps({**summary, "config_hash": config_hash(config)}, indent=1).encode()
    )


def summary_of(out: Path) -> dict[str, Any] | None:
    """How the run in a folder ended, if it has."""
    path = out / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


VIEWS = (
    "What the learner sees.\nTwo crops of one image; the online view is masked, the target view has to be predicted."
)
PLACES = "Where the patches fall.\nThe predictor knows only where the target view lies relative to the online view."
COMPONENTS = (
    "What patches share.\nTheir first three principal components as red, green and blue, one basis over many images, less what "
    "all have at a position: parts that mean the same should have one colour."
)
ATTENTION = "What the cls token attends to.\nIn the last block, head by head; bright is much."


def draw_first_pictures(folder: Path, config: RunConfig, source: Source) -> None:
    """Views and their correspondence, once, for methods with two views."""
    two = isinstance(config.method, SiameseIMSettings | MoCoV3Settings)
    if launched_rank() > 0 or not two or config.encoder.channels != 3 or _has(folder, "1-views"):
        return
    settings = ViewsSettings(config=config, data=str(folder), count=4)
    with said_and_passed_over():
        images, pairs = pairs_of(settings, source)
        grid = grid_of(config)
        keep_picture(folder, "1-views", pictures.draw_views(images, pairs, grid), VIEWS)
        keep_picture(folder, "2-places", pictures.draw_correspondence(pairs[:2], grid), PLACES)


def draw_last_pictures(folder: Path, source: Source) -> None:
    """What the trained encoder makes of the first images."""
    if launched_rank() > 0:
        return
    loaded = load_encoder(folder)
    if loaded.card.encoder.channels != 3:
        return
    with said_and_passed_over():
        keep_picture(folder, "3-components", components_figure(loaded, source, 0, 6), COMPONENTS)
        keep_picture(folder, "4-attention", attention_figure(loaded, source, 0, 3), ATTENTION)


def _has(folder: Path, name: str) -> bool:
    return (folder / PICTURES / f"{name}.png").exists()
