"""A head, or a whole encoder, fitted to labels under the one loop, in a folder that knows what it is for."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.atomic import write_atomically
from otherview.errors import WrongRequest
from otherview.verbs.request import DeviceName, resolve_device, set_threads
from otherview.verbs.run_folder import only_writer

if TYPE_CHECKING:
    import torch

    from otherview.data.levels import Decoding
    from otherview.data.plan import StepPlan
    from otherview.data.source import Source
    from otherview.learner import Learner
    from otherview.nn.encoder import Encoder
    from otherview.training.settings import TrainingSettings


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


def default_batch(images: int, *, most: int) -> int:
    """The protocol's batch, or a tenth of the images where they are few."""
    return max(1, min(most, images // 10))


def encoder_content(encoder: "Encoder") -> str:
    """Sixteen hexadecimal digits of an encoder's weights."""
    digest = blake2b(digest_size=8)
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def check_fit(folder: Path, about: dict[str, Any]) -> None:
    """Raise WrongRequest where the folder cannot be written or holds something else."""
    identity = folder / "fit.json"
    wanted = json.loads(json.dumps(about))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not identity.exists():
            write_atomically(identity, json.dumps(wanted, indent=1).encode())
            return
        before = json.loads(identity.read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongRequest(f"{folder} cannot be written ({error.strerror}): choose a folder of yours") from error
    for name in wanted | before:
        if before.get(name) != wanted.get(name):
            raise WrongRequest(
                f"{folder} holds a fit with {name} {before.get(name)}, not {wanted.get(name)}: give another --out"
            )


def fitted(
    learner: "Learner", fit: Fit, *, make_optimiser: "Callable[[Learner, TrainingSettings], torch.optim.Optimizer]"
) -> None:
    """Train from the last checkpoint, or from the start, to the end; the learner is changed in place."""
    from accelerate import Accelerator

    from otherview.data.loader import SampleMaker, make_loader
    from otherview.training.loop import train
    from otherview.training.run import Run
    from otherview.training.stop import stop_requests

    check_fit(fit.folder, fit.about)
    chosen = resolve_device(fit.device)
    accelerator = Accelerator(cpu=chosen.type == "cpu", mixed_precision="no")
    set_threads(fit.threads)
    maker = SampleMaker(fit.source, learner.views, fit.plan.seed, fit.decoding)
    print(f"{fit.plan.steps:,} steps of {fit.plan.batch} images, in {fit.folder}", file=sys.stderr)
    run = Run(
        learner=learner,
        settings=fit.settings,
        folder=fit.folder,
        batch=fit.plan.batch,
        steps=fit.plan.steps,
        steps_per_epoch=fit.plan.steps_per_epoch,
        config_hash=blake2b(json.dumps(fit.about).encode(), digest_size=6).hexdigest(),
        accelerator=accelerator,
        loader_from=lambda step: make_loader(
            maker, fit.plan, start=step, workers=fit.settings.workers, pin=chosen.type == "cuda"
        ),
        name_of=fit.source.name,
        make_optimiser=make_optimiser,
    )
    with only_writer(fit.folder), stop_requests() as run.asked_to_stop:
        train(run)
