"""Pre-train an encoder on any folder of images; run the same command again to continue."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from otherview.config import RunConfig, config_hash
from otherview.errors import WrongRequest
from otherview.verbs.request import Computing, DeviceName, check_threads, shortened
from otherview.verbs.run_folder import prepare_folder, summary_of, write_summary

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from otherview.data.plan import StepPlan
    from otherview.data.source import Source
    from otherview.training.run import Run, Summary


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
    dry_run: bool = False
    """Print shapes, parameters, memory, one timed step and the cost of the run, and write nothing."""
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
        name: getattr(request, name) for name in ("fresh", "device", "threads", "knn_bank", "knn_test", "knn_every")
    }
    if request.dry_run:
        from otherview.verbs.dry_run import dry_run

        return dry_run(request.config, request.data, device=request.device, threads=request.threads)
    return pretrain(request.config, data=request.data, out=request.out, **options)


def pretrain(
    config: RunConfig,
    *,
    data: str,
    out: Path | str,
    fresh: bool = False,
    device: DeviceName = "auto",
    threads: int | None = None,
    knn_bank: str | None = None,
    knn_test: str | None = None,
    knn_every: int = 500,
) -> dict[str, Any]:
    """Pre-train or continue; returns the summary that `otherview pretrain --json` prints.

    Raises WrongRequest before anything is computed; Stopped (exit status 75) when asked to stop.
    """
    from otherview.data.plan import StepPlan
    from otherview.data.spec import open_source

    config.check()
    out = Path(out)
    if shortened():
        config = config.model_copy(update={"steps": min(config.steps or SHORTENED_STEPS, SHORTENED_STEPS)})
    source = open_source(data)
    steps = config.steps_for(len(source))
    check_threads(threads)
    plan = StepPlan(len(source), config.batch, steps, config.seed, accumulation=config.training.accumulation)
    watch = _watched(knn_bank, knn_test)
    state, said = prepare_folder(out, config, data=data, fresh=fresh)
    for line in [*said, *config.warnings(), *_first_lines(config, plan, data=data, out=out)]:
        print(line, file=sys.stderr)
    if state == "finished" and (summary := summary_of(out)):
        print(f"this run is finished: {summary['verdict']}", file=sys.stderr)
        return summary
    began = time.monotonic()
    parts = _assemble(config, source, plan, out=out, device=device, threads=threads, watch=watch, knn_every=knn_every)
    from otherview.training.loop import train
    from otherview.training.stop import stop_requests

    with stop_requests() as parts.asked_to_stop:
        ended = train(parts)
    summary = _finish(config, parts, ended, out=out, seconds=time.monotonic() - began)
    print(_snippet(out), file=sys.stderr)
    return summary


def _watched(bank: str | None, test: str | None) -> "tuple[Source, Source] | None":
    """The labelled sources of the online kNN, opened early so that a wrong one is said at once."""
    if bank is None and test is None:
        return None
    if bank is None or test is None:
        raise WrongRequest("--knn-bank and --knn-test belong together: give both or neither")
    from otherview.data.source import labels_of
    from otherview.data.spec import open_source

    sources = open_source(bank), open_source(test)
    for source, spec in zip(sources, (bank, test), strict=True):
        labels_of(source, spec)
    return sources


def _first_lines(config: RunConfig, plan: "StepPlan", *, data: str, out: Path) -> list[str]:
    rows, columns = config.encoder.grid
    height, width = config.encoder.image_size
    return [
        f"{plan.images:,} images in {data}",
        f"{config.method.name} ({config.recipe or 'own config'}): {plan.steps:,} steps of {plan.batch} images "
        f"({plan.steps / plan.steps_per_epoch:.1f} epochs), {height}×{width} px, {rows}×{columns} patches",
        f"writing to {out}; watch effective_rank and knn in metrics.jsonl: they should climb, the loss says little",
    ]


def _assemble(
    config: RunConfig,
    source: "Source",
    plan: "StepPlan",
    *,
    out: Path,
    device: DeviceName,
    threads: int | None,
    watch: "tuple[Source, Source] | None",
    knn_every: int,
) -> "Run":
    """Every part of the run, built and handed over; here the heavy imports begin."""
    from dataclasses import replace

    from otherview.data.loader import SampleMaker, make_loader
    from otherview.data.picture import Look
    from otherview.distributed import rank, ranks
    from otherview.evaluation.watch import OnlineKnn
    from otherview.methods.build import build_siamese_im
    from otherview.training.run import Run
    from otherview.verbs.request import resolve_device, set_threads
    from otherview.verbs.weights import decoding_of

    chosen = resolve_device(device)
    accelerator = _accelerator(chosen, config.training.precision)
    set_threads(threads)
    learner = build_siamese_im(config.method, encoder=config.encoder, views=config.views, seed=config.seed)
    own = replace(plan, ranks=ranks(), rank=rank())
    decoding = decoding_of(config)
    maker = SampleMaker(source, learner.views, config.seed, decoding)
    look = Look(config.encoder.image_size, config.views.mean, config.views.std, decoding)
    return Run(
        learner=learner,
        settings=config.training,
        folder=out,
        batch=config.batch,
        steps=plan.steps,
        steps_per_epoch=plan.steps_per_epoch,
        config_hash=config_hash(config),
        accelerator=accelerator,
        loader_from=lambda step: make_loader(
            maker, own, start=step, workers=config.training.workers, pin=chosen.type == "cuda"
        ),
        name_of=source.name,
        observers=[OnlineKnn(*watch, every=knn_every, look=look)] if watch else [],
    )


def _accelerator(device: "torch.device", precision: str) -> "Accelerator":
    from accelerate import Accelerator, DistributedDataParallelKwargs

    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=False)],
    )


def _finish(config: RunConfig, parts: "Run", ended: "Summary", *, out: Path, seconds: float) -> dict[str, Any]:
    """Write the encoders, the verdict and the summary; rank 0 alone."""
    from otherview.distributed import rank
    from otherview.training.journal import read_journal
    from otherview.training.verdict import verdict
    from otherview.verbs.weights import card_of
    from otherview.weights.pretrained import save_encoder

    summary = {
        "steps": ended.steps,
        "epochs": round(ended.steps / parts.steps_per_epoch, 2),
        "seconds": round(seconds, 1),
        "images_per_second": round(ended.images_per_second, 1),
        "waited_for_data_share": round(ended.waited_for_data_share, 4),
        "broken_images": len(parts.broken),
        "out": str(out),
    }
    if rank() != 0:
        return summary
    summary["verdict"] = verdict(read_journal(out / "metrics.jsonl"))
    for branch, encoder in parts.learner.encoders.items():
        card = card_of(config, method=config.method.name, branch=branch, steps=ended.steps)
        save_encoder(out / f"{branch}.safetensors", encoder, card)
    write_summary(out, config, summary)
    print(summary["verdict"], file=sys.stderr)
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
