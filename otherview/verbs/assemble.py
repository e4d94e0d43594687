"""A run from its parts: everything that the loop is handed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.config import RunConfig, config_hash
from otherview.errors import WrongRequest
from otherview.methods.settings import SupervisedSettings
from otherview.training.launch import launched_ranks
from otherview.training.settings import TrainingSettings
from otherview.verbs.request import DeviceName

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from otherview.data.plan import StepPlan
    from otherview.data.source import Source
    from otherview.training.run import Run


def open_watched(bank: str | None, test: str | None, *, every: int) -> "tuple[Source, Source] | None":
    """The labelled sources of the online kNN, opened early so that a wrong one is said at once."""
    if bank is None and test is None:
        return None
    if bank is None or test is None:
        raise WrongRequest("--knn-bank and --knn-test belong together: give both or neither")
    if every < 1:
        raise WrongRequest(f"--knn-every {every} is too few: give 1 or more")
    from otherview.data.source import labels_of
    from otherview.data.spec import open_source

    sources = open_source(bank), open_source(test)
    for source, spec in zip(sources, (bank, test), strict=True):
        labels_of(source, spec)
    return sources


def with_classes(config: RunConfig, source: "Source", data: str) -> RunConfig:
    """A method that learns from labels is told how many classes the data has; others stay as they are.

    Raises WrongRequest where there are no labels, or more classes than the config says.
    """
    if not isinstance(config.method, SupervisedSettings):
        return config
    from otherview.data.source import labels_of

    found = int(labels_of(source, data).max()) + 1
    if found < 2:
        raise WrongRequest(f"{data} has one class only: supervised pre-training needs two or more")
    asked = config.method.classes or found
    if asked < found:
        raise WrongRequest(f"method.classes {asked} is fewer than the {found} classes of {data}: leave it out")
    return config.model_copy(update={"method": config.method.model_copy(update={"classes": asked})})


def assemble(
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
    from otherview.methods.build import build
    from otherview.training.blocks import prepare_blocks
    from otherview.training.run import Run
    from otherview.verbs.request import resolve_device, set_threads
    from otherview.verbs.weights import decoding_of

    chosen = resolve_device(device)
    accelerator = make_accelerator(chosen, config.training, out)
    set_threads(threads)
    learner = build(config.method, encoder=config.encoder, views=config.views, seed=config.seed)
    own = replace(plan, ranks=ranks(), rank=rank())
    prepare_blocks(learner, config.training)
    track = _tracker(accelerator, config)
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
        track=track,
        loader_from=lambda step: make_loader(
            maker, own, start=step, workers=config.training.workers, pin=chosen.type == "cuda"
        ),
        name_of=source.name,
        observers=[OnlineKnn(*watch, every=knn_every, look=look)] if watch else [],
    )


def make_accelerator(device: "torch.device", settings: TrainingSettings, out: Path) -> "Accelerator":
    """Devices, precision and trackers of one run; a process may make several runs after another."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    # It would refuse a second run with another precision, and keep the device of the first.
    AcceleratorState._reset_state(reset_partial_state=launched_ranks() == 1)
    fields = DistributedDataParallelKwargs.__dataclass_fields__
    quiet = "forward_sync_buffers" if "forward_sync_buffers" in fields else "broadcast_buffers"  # its newer name
    options: dict[str, Any] = {quiet: False, "find_unused_parameters": False}
    handlers: list[Any] = [DistributedDataParallelKwargs(**options)]
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        kwargs_handlers=handlers,
        log_with=list(settings.trackers) or None,
        project_dir=out,
    )


def _tracker(accelerator: "Accelerator", config: RunConfig) -> Any:
    """Figures to the trackers that were asked for; accelerate lets rank 0 alone write."""
    if not config.training.trackers:
        return lambda _figures, _step: None
    try:
        accelerator.init_trackers("otherview", config={"config": config_hash(config), "recipe": config.recipe})
    except (ImportError, ValueError) as error:
        names = " ".join(config.training.trackers)
        raise WrongRequest(f"training.trackers {names} cannot start ({error}): pip install {names}") from error
    return lambda figures, step: accelerator.log(dict(figures), step=step)
