"""Pre-train an encoder on any images: check, build, agree, train, save, export. The same call continues a run.

pretrain(data="photos/", out="runs/first")
"""

import sys
from pathlib import Path
from typing import Any

from otherview.config import RunConfig
from otherview.data.loader import StepPlan
from otherview.distributed import agree, from_first, rank
from otherview.files import json_lines, only_writer
from otherview.launch import launched_rank, shortened, stop_requests
from otherview.methods.learner import Learner
from otherview.report.run_page import Page, refresh_page
from otherview.runs.assemble import assemble, look_of, open_watched
from otherview.runs.cost import Opened, dry_run, opened
from otherview.runs.pace import plan_of
from otherview.runs.run_folder import (
    draw_first_pictures,
    draw_last_pictures,
    note_watched,
    prepare_folder,
    summary_of,
    write_summary,
)
from otherview.runs.settings import PretrainSettings
from otherview.signature import takes
from otherview.training.callbacks import Callback
from otherview.training.device import check_threads, compute_on
from otherview.training.health import judged
from otherview.training.loop import train
from otherview.training.state import RunState, Summary
from otherview.weights.names import START, card_of
from otherview.weights.pretrained import save_encoder

PAGES = 20
"""How often report.html is rewritten in a run."""
PATCHES_FROZEN = "the patch embedding is not trained, as published; --encoder.train-patch-embedding trains it"
SHORTENED_STEPS = 8
"""Steps of a run where a shortened one is asked for."""


@takes(PretrainSettings)
def pretrain(settings: PretrainSettings) -> dict[str, Any]:
    """Pre-train or continue; returns the summary that `otherview pretrain --json` prints.

    Raises WrongRequest before anything is computed; Stopped (exit status 75) when asked to stop.
    """
    if settings.dry_run:
        return dry_run(settings)
    check_threads(settings.threads)
    device = compute_on(settings)
    asked = opened(settings)
    config = asked.config
    if shortened():
        config = config.model_copy(update={"steps": min(config.steps or SHORTENED_STEPS, SHORTENED_STEPS)})
    plan = agree(lambda: plan_of(config, asked.source, config.steps_for(len(asked.source))))
    watch = agree(lambda: open_watched(settings.knn_bank, settings.knn_test, every=settings.knn_every))
    state, said = from_first(agree(lambda: _folder(config, settings, plan)))
    said = [*said, *_reasons(asked.chosen), *(asked.start.said if asked.start else ()), *config.warnings()]
    _say(*said, *_first_lines(config, plan, settings))
    if state == "finished" and (summary := summary_of(settings.out)):
        _say(f"this run is finished: {summary['verdict']}")
        return summary
    look = look_of(config, asked.source, watch, every=settings.knn_every)
    run = assemble(config, asked.source, plan, out=settings.out, device=device, look=look)
    return _trained(config, run, asked, settings)


def _folder(config: RunConfig, settings: PretrainSettings, plan: StepPlan) -> tuple[str, list[str]]:
    """Rank 0 prepares the folder for all."""
    if launched_rank() > 0:
        return "", []
    found = prepare_folder(settings.out, config, data=settings.data, images=plan.images, fresh=settings.fresh)
    note_watched(settings.out, settings.knn_bank, settings.knn_test)
    return found


class ExportEncoders(Callback):
    """Writes the encoders beside every checkpoint that is kept, and into the run folder at the end."""

    def __init__(self, folder: Path, config: RunConfig, licence: str | None) -> None:
        self.folder, self.config, self.licence = folder, config, licence

    def on_checkpoint(self, step: int, learner: Learner) -> None:
        self._write(step, learner, self.folder / "checkpoints", f"step-{step:06d}-")

    def on_end(self, step: int, learner: Learner) -> None:
        self._write(step, learner, self.folder, "")

    def _write(self, step: int, learner: Learner, folder: Path, prefix: str) -> None:
        if rank() != 0:
            return
        for branch, encoder in learner.encoders.items():
            method = self.config.method.name
            card = card_of(self.config, method=method, branch=branch, steps=step, licence=self.licence)
            save_encoder(folder / f"{prefix}{branch}.safetensors", encoder, card)


def _trained(config: RunConfig, run: RunState, asked: Opened, settings: PretrainSettings) -> dict[str, Any]:
    """Train, write encoders, summary and page; returns the summary."""
    out, start = settings.out, asked.start
    if start:
        start.into(run.learner)
        run.licence = start.licence
        _keep_start(config, run, out)
    page = Page(out, every=max(50, run.steps // PAGES))
    run.callbacks = [*run.callbacks, ExportEncoders(out, config, run.licence), page]
    with only_writer(out), stop_requests() as run.asked_to_stop:
        draw_first_pictures(out, config, asked.source)
        ended = train(run)
        summary = _finish(config, run, ended, data=settings.data, out=out)
        draw_last_pictures(out, asked.source)
        refresh_page(out)
    _say(_snippet(out, config))
    return summary


def _keep_start(config: RunConfig, run: RunState, out: Path) -> None:
    """The weights as the run begins with them: what its encoder is judged beside."""
    if rank() == 0 and not (out / START).exists():
        card = card_of(config, method=config.method.name, branch="start", steps=0, licence=run.licence)
        save_encoder(out / START, next(iter(run.learner.encoders.values())), card)


def _say(*lines: str) -> None:
    """On standard error, by rank 0 alone."""
    if launched_rank() == 0:
        for line in lines:
            print(line, file=sys.stderr)


def _reasons(chosen: list[str]) -> list[str]:
    head = "chosen for these images and this machine (--recipe NAME gives another run, any flag another setting):"
    return [head, *(f"  {line}" for line in chosen)] if chosen else []


def _first_lines(config: RunConfig, plan: StepPlan, settings: PretrainSettings) -> list[str]:
    watched = "effective_rank and knn" if settings.knn_bank else "effective_rank and retrieval"
    rows, columns = config.encoder.grid
    height, width = config.encoder.image_size
    frozen = [] if config.encoder.train_patch_embedding else [PATCHES_FROZEN]
    return [
        f"{plan.images:,} images in {settings.data}",
        f"{config.method.name} ({config.recipe or 'own config'}): {plan.steps:,} steps of {plan.batch} images "
        f"({plan.steps / plan.steps_per_epoch:.1f} epochs), {height}×{width} px, {rows}×{columns} patches",
        *frozen,
        f"writing to {settings.out}; watch {watched} in metrics.jsonl: they should rise; the loss shows little",
    ]


def _finish(config: RunConfig, run: RunState, ended: Summary, *, data: str, out: Path) -> dict[str, Any]:
    """The verdict and the summary; rank 0 writes them."""
    summary = {
        "steps": ended.steps,
        "epochs": round(ended.steps / run.steps_per_epoch, 2),
        "seconds": round(ended.seconds, 1),
        **({"cpu_seconds": round(ended.cpu_seconds, 1)} if ended.cpu_seconds else {}),
        "images_per_second": round(ended.images_per_second, 1),
        "waited_for_data_share": round(ended.waited_for_data_share, 4),
        "images": run.plan.images,
        "broken_images": len(run.tally.broken),
        "data": data,
        "out": str(out),
    }
    if rank() != 0:
        return summary
    found = judged(json_lines(out / "metrics.jsonl"), token=config.token)
    summary |= {"verdict": str(found), "judgement": found.as_json()}
    write_summary(out, config, summary)
    _say(summary["verdict"])
    return summary


def _snippet(out: Path, config: RunConfig) -> str:
    return f"""
load it:
    import otherview
    encoder = otherview.load_encoder({str(out)!r})
    tokens = encoder(images)        # [B, {config.encoder.channels}, H, W], uint8 or floats in [0, 1]
    tokens.mean, tokens.cls, tokens.patches
evaluate it:
    otherview evaluate knn --weights {out} --train SPEC --test SPEC"""
