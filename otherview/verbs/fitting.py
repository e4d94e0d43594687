"""A head, or a whole encoder, fitted to labels under the one loop, in a folder that knows what it is for."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.atomic import write_atomically
from otherview.errors import WrongRequest
from otherview.training.launch import launched_rank
from otherview.training.schedule import Rate, rate_at
from otherview.verbs.assemble import make_accelerator
from otherview.verbs.judging import Judging
from otherview.verbs.request import DeviceName, resolve_device, set_threads
from otherview.verbs.run_folder import only_writer

if TYPE_CHECKING:
    import torch

    from otherview.data.levels import Decoding
    from otherview.data.picture import Look
    from otherview.data.plan import StepPlan
    from otherview.data.source import Source
    from otherview.evaluation.frozen import Side
    from otherview.geometry import Crop, PatchGrid
    from otherview.learner import Learner
    from otherview.training.settings import TrainingSettings
    from otherview.views.single import SingleView


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Everything that decides the outcome, and where it is kept."""

    folder: Path
    about: dict[str, Any]
    """Protocol, data and weights in words: a folder that holds another fit is refused."""
    source: "Source"
    plan: "StepPlan"
    settings: "TrainingSettings"
    decoding: "Decoding"
    device: DeviceName
    threads: int | None


def default_batch(images: int, *, most: int, unit: int) -> int:
    """The protocol's batch, or a tenth of the images where they are few; a multiple of `unit`, at least 2."""
    return max(unit, 2, min(most, images // 10) // unit * unit)


def check_out(request: Judging) -> None:
    """Raise WrongRequest where there is no place for checkpoints."""
    if request.out is None and not Path(request.weights).is_dir():
        raise WrongRequest(f"--weights {request.weights} is no run folder: give --out DIR, where checkpoints are kept")


def crops_of(look: "Look", grid: "PatchGrid", *, draw: "Callable[..., Crop]") -> "SingleView":
    """Crops and mirroring alone, as an encoder wants its images."""
    from otherview.views.settings import PLAIN, MaskSettings, ViewSettings
    from otherview.views.single import SingleView

    settings = ViewSettings(
        mean=tuple(look.mean), std=tuple(look.std), levels=look.decoding.levels, seen_colour=PLAIN,
        mask=MaskSettings(kind="none"),
    )  # fmt: skip
    return SingleView(settings, look.size, grid, draw=draw)


def check_fit(folder: Path, about: dict[str, Any]) -> None:
    """Raise WrongRequest where the folder cannot be written or holds another fit that has begun; rank 0 answers for all."""
    if launched_rank() > 0:
        return
    identity = folder / "fit.json"
    wanted = json.loads(json.dumps(about))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = json.loads(identity.read_text(encoding="utf-8")) if (folder / "checkpoints").exists() else wanted
        for name in wanted | before:
            if before.get(name) != wanted.get(name):
                raise WrongRequest(
                    f"{folder} holds a fit with {name} {before.get(name)}, not {wanted.get(name)}: give another --out, "
                    "or remove the folder"
                )
        write_atomically(identity, json.dumps(wanted, indent=1).encode())
    except OSError as error:
        raise WrongRequest(f"{folder} cannot be written ({error.strerror}): choose a folder of yours") from error


def labelled(side: "Side") -> "Source":
    """The images of a side with its numbers of classes."""
    from otherview.data.source import Relabelled

    return Relabelled(side.source, side.indices, labels=side.labels.numpy(), names=side.names)


def labels_content(side: "Side") -> str:
    """Sixteen hexadecimal digits of which images a side has, with which bytes and in which classes."""
    digest = blake2b("\n".join([*side.names, *side.contents]).encode(), digest_size=8)
    digest.update(side.indices.tobytes() + side.labels.numpy().tobytes())
    return digest.hexdigest()


def fitted(
    learner: "Learner",
    fit: Fit,
    *,
    make_optimiser: "Callable[[Learner, TrainingSettings], torch.optim.Optimizer]",
    rate: "Rate" = rate_at,
) -> None:
    """Train from the last checkpoint, or from the start, to the end; the learner is changed in place."""
    from otherview.data.loader import SampleMaker, make_loader
    from otherview.distributed import rank, ranks
    from otherview.training.blocks import prepare_blocks
    from otherview.training.loop import train
    from otherview.training.run import Run
    from otherview.training.stop import stop_requests

    check_fit(fit.folder, fit.about)
    chosen = resolve_device(fit.device)
    accelerator = make_accelerator(chosen, fit.settings, fit.folder)
    set_threads(fit.threads)
    prepare_blocks(learner, fit.settings)
    plan = replace(fit.plan, ranks=ranks(), rank=rank())
    maker = SampleMaker(fit.source, learner.views, plan.seed, fit.decoding)
    if rank() == 0:
        print(f"{plan.steps:,} steps of {plan.batch} images, in {fit.folder}", file=sys.stderr)
    run = Run(
        learner=learner,
        settings=fit.settings,
        folder=fit.folder,
        batch=plan.batch,
        steps=plan.steps,
        steps_per_epoch=plan.steps_per_epoch,
        config_hash=blake2b(json.dumps(fit.about).encode(), digest_size=6).hexdigest(),
        accelerator=accelerator,
        loader_from=lambda step: make_loader(
            maker, plan, start=step, workers=fit.settings.workers, pin=chosen.type == "cuda"
        ),
        name_of=fit.source.name,
        make_optimiser=make_optimiser,
        rate=rate,
        judged=False,
        title=str(fit.about["protocol"]),
    )
    with only_writer(fit.folder), stop_requests() as run.asked_to_stop:
        train(run)
