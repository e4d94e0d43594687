"""Pre-train an encoder on any folder of images; run the same command again to continue."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from otherview.config import RunConfig
from otherview.training.launch import adopt_slurm, launched_rank, launched_ranks
from otherview.verbs.assemble import assemble, open_watched, with_classes
from otherview.verbs.budget import within_budget
from otherview.verbs.pages import Page, draw_first_pictures, draw_last_pictures, refresh_page
from otherview.verbs.request import Computing, DeviceName, check_threads, shortened
from otherview.verbs.run_folder import only_writer, prepare_folder, summary_of, write_summary
from otherview.verbs.starting import Start, starting

if TYPE_CHECKING:
    from otherview.data.plan import StepPlan
    from otherview.data.source import Source
    from otherview.training.run import Run, Summary


PAGES = 20
"""How often report.html is rewritten in a run."""
SHORTENED_STEPS = 8
"""Steps of a run where a shortened one is asked for."""


@dataclass(kw_only=True)
class Pretrain(Computing):
    """Pre-train an encoder; run the same command again in the same folder to continue."""

    data: str
    """Images: a folder, *.txt, *.csv, *.zip, *.tar, *.parquet, hf:NAME, torchvision:NAME, coco:JSON@IMAGES/,
    pixels:IMAGES/@LABELS/ or shapes:N; several joined by commas."""
    out: Path
    """The run folder."""
    fresh: bool = False
    """Start over; what is in the folder is moved aside, and where to is said."""
    init: str | None = None
    """Weights to start from: a run folder or an encoder file, ours or converted, of any image size; default: random."""
    dry_run: bool = False
    """Print shapes, parameters, memory, one timed step and the cost of the run, and write nothing."""
    time_budget: str | None = None
    """As many steps as fit into 90s, 30m, 1.5h or 2d: measured once, then part of the run's config."""
    knn_bank: str | None = None
    """Labelled images for an online kNN: the bank (5,000 of them)."""
    knn_test: str | None = None
    """Labelled images for an online kNN: the queries (2,000 of them)."""
    knn_every: int = 500
    """Steps between two looks of the online kNN."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    """Every setting of the run; the values shown are the recipe's."""


def run(request: Pretrain) -> dict[str, Any]:
    """The verb."""
    options = {
        name: getattr(request, name)
        for name in ("fresh", "init", "device", "threads", "time_budget", "knn_bank", "knn_test", "knn_every")
    }
    if request.dry_run:
        from otherview.verbs.dry_run import dry_run

        return dry_run(request.config, request.data, device=request.device, threads=request.threads)
    return pretrain(request.config, data=request.data, out=request.out, **options)


def pretrain(  # noqa: PLR0913 (the flags of the verb)
    config: RunConfig,
    *,
    data: str,
    out: Path | str,
    fresh: bool = False,
    init: str | Path | None = None,
    device: DeviceName = "auto",
    threads: int | None = None,
    time_budget: str | None = None,
    knn_bank: str | None = None,
    knn_test: str | None = None,
    knn_every: int = 500,
) -> dict[str, Any]:
    """Pre-train or continue; returns the summary that `otherview pretrain --json` prints.

    Raises WrongRequest before anything is computed; Stopped (exit status 75) when asked to stop.
    """
    from otherview.data.plan import StepPlan
    from otherview.data.spec import open_source

    adopt_slurm()
    config.check()
    out = Path(out)
    source = open_source(data)
    start = None
    if init is not None:
        config, start = starting(config, init)
    config = with_classes(config, source, data)
    if time_budget:
        config = within_budget(config, source, budget=time_budget, out=out, fresh=fresh, device=device, threads=threads)
    if shortened():
        config = config.model_copy(update={"steps": min(config.steps or SHORTENED_STEPS, SHORTENED_STEPS)})
    steps = config.steps_for(len(source))
    check_threads(threads)
    plan = StepPlan(
        len(source), config.batch, steps, config.seed, ranks=launched_ranks(), accumulation=config.training.accumulation
    )
    watch = open_watched(knn_bank, knn_test, every=knn_every)
    state, said = prepare_folder(out, config, data=data, images=len(source), fresh=fresh)
    told = [*said, *(start.said if start else ()), *config.warnings(), *_first_lines(config, plan, data=data, out=out)]
    for line in told:
        _say(line)
    if state == "finished" and (summary := summary_of(out)):
        _say(f"this run is finished: {summary['verdict']}")
        return summary
    parts = assemble(config, source, plan, out=out, device=device, threads=threads, watch=watch, knn_every=knn_every)
    return _trained(config, parts, source, start, data=data, out=out)


def _trained(
    config: RunConfig, parts: "Run", source: "Source", start: "Start | None", *, data: str, out: Path
) -> dict[str, Any]:
    """Train, write encoders, summary and page; returns the summary."""
    from otherview.training.loop import train
    from otherview.training.stop import stop_requests

    if start:
        start.into(parts.learner)
    parts.observers = [*parts.observers, Page(out, every=max(50, parts.steps // PAGES))]
    with only_writer(out), stop_requests() as parts.asked_to_stop:
        draw_first_pictures(out, config, source)
        ended = train(parts)
        summary = _finish(config, parts, ended, data=data, out=out, licence=start.licence if start else None)
        draw_last_pictures(out, source)
        refresh_page(out)
    _say(_snippet(out))
    return summary


def _say(line: str) -> None:
    """On standard error, by rank 0 alone."""
    if launched_rank() == 0:
        print(line, file=sys.stderr)


def _first_lines(config: RunConfig, plan: "StepPlan", *, data: str, out: Path) -> list[str]:
    rows, columns = config.encoder.grid
    height, width = config.encoder.image_size
    return [
        f"{plan.images:,} images in {data}",
        f"{config.method.name} ({config.recipe or 'own config'}): {plan.steps:,} steps of {plan.batch} images "
        f"({plan.steps / plan.steps_per_epoch:.1f} epochs), {height}×{width} px, {rows}×{columns} patches",
        f"writing to {out}; watch effective_rank and knn in metrics.jsonl: they should climb, the loss says little",
    ]


def _finish(
    config: RunConfig, parts: "Run", ended: "Summary", *, data: str, out: Path, licence: str | None
) -> dict[str, Any]:
    """Write the encoders, the verdict and the summary; rank 0 alone."""
    from otherview.atomic import json_lines
    from otherview.distributed import rank
    from otherview.training.verdict import verdict
    from otherview.verbs.weights import card_of
    from otherview.weights.pretrained import save_encoder

    summary = {
        "steps": ended.steps,
        "epochs": round(ended.steps / parts.steps_per_epoch, 2),
        "seconds": round(ended.seconds, 1),
        **({"cpu_seconds": round(ended.cpu_seconds, 1)} if ended.cpu_seconds else {}),
        "images_per_second": round(ended.images_per_second, 1),
        "waited_for_data_share": round(ended.waited_for_data_share, 4),
        "broken_images": len(parts.tally.broken),
        "data": data,
        "out": str(out),
    }
    if rank() != 0:
        return summary
    summary["verdict"] = verdict(json_lines(out / "metrics.jsonl"))
    for branch, encoder in parts.learner.encoders.items():
        card = card_of(config, method=config.method.name, branch=branch, steps=ended.steps, licence=licence)
        save_encoder(out / f"{branch}.safetensors", encoder, card)
    write_summary(out, config, summary)
    _say(summary["verdict"])
    return summary


def _snippet(out: Path) -> str:
    return f"""
load it:
    import otherview
    encoder = otherview.load_encoder({str(out)!r})
    tokens = encoder(images)        # [B, 3, H, W], uint8 or floats in [0, 1]
    tokens.mean, tokens.cls, tokens.patches
judge it:
    otherview evaluate knn --weights {out} --train SPEC --test SPEC"""


def show(result: dict[str, Any]) -> Sequence[str]:
    """The result in words, for standard output."""
    return [f"{name} {value}" for name, value in result.items()]
