"""Several real gloo processes, and what they compute; imports little, because every process imports it again."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _one_rank(
    rank: int, count: int, folder: str, backend: str, work: Callable[..., Any], words: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    result = work(rank, *words)
    torch.save(result, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def in_ranks(count: int, work: Callable[..., Any], folder: Path, *words: Any, backend: str = "gloo") -> list[Any]:
    """Run `work(rank, *words)` in `count` processes; returns what each returned."""
    os.environ["OMP_NUM_THREADS"] = "1"
    mp.start_processes(_one_rank, (count, str(folder), backend, work, words), nprocs=count, start_method="spawn")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True, map_location="cpu") for rank in range(count)]


def unigrad_of_rank(rank: int, path: str) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one rank's share of a golden case."""
    from torch.nn import functional as F

    from otherview.losses.unigrad import correlation, unigrad

    arrays = np.load(path)
    y = torch.from_numpy(arrays[f"rank{rank}/pred"]).requires_grad_()
    raw = torch.from_numpy(arrays[f"rank{rank}/target"])
    z = F.layer_norm(raw, raw.shape[-1:], eps=1e-5)
    loss = unigrad(y, z, correlation([z]), weight=float(arrays["negative_weight"])).total
    loss.backward()
    assert y.grad is not None
    return float(loss.detach()), y.grad


def batch_norm_of_rank(rank: int, tokens: torch.Tensor, upstream: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Output, input gradient and affine gradients of this rank's share of the tokens."""
    from otherview.nn.heads import TokenBatchNorm

    norm = TokenBatchNorm(tokens.shape[-1])
    mine = tokens[rank].clone().requires_grad_()
    out = norm(mine)
    (out * upstream[rank]).sum().backward()
    assert mine.grad is not None and norm.weight.grad is not None and norm.bias.grad is not None
    return out.detach(), mine.grad, norm.weight.grad, norm.bias.grad


def probe_norm_of_rank(rank: int, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What the linear probe's batch norm makes of this rank's share, and its running statistics."""
    from otherview.evaluation.linear_probe import BatchNormOfAllRanks

    norm = BatchNormOfAllRanks(features.shape[-1], eps=1e-6, affine=False)
    out = [norm(part[rank]) for part in features]
    assert norm.running_mean is not None and norm.running_var is not None
    return torch.stack(out), norm.running_mean, norm.running_var


def correlation_of_rank(rank: int, targets: torch.Tensor) -> torch.Tensor:
    """C as this rank sees it."""
    from otherview.losses.unigrad import correlation

    return correlation([targets[rank]])


def training_of_rank(
    rank: int, count: int, optimiser_name: str, part: dict[str, Any], accumulation: int = 1, device: str = "cpu"
) -> dict[str, Any]:
    """Three optimiser steps of a small SiameseIM on this rank's slice of the same global batches."""
    from torch.nn.parallel import DistributedDataParallel

    from otherview.data.loader import SampleMaker, StepPlan, make_loader
    from otherview.data.shapes import Shapes
    from otherview.distributed import mean_over_ranks
    from otherview.methods.build import build_siamese_im
    from otherview.recipes.registry import find
    from otherview.training.loop import to_device
    from otherview.training.optim import Muon

    config = find("siamese_im_cpu_adamw").make()
    encoder = config.encoder.model_copy(update={"width": 32, "depth": 2})
    method = config.method.model_copy(update={"head_width": 32, "negative_weight": 0.5, **part})
    learner = build_siamese_im(method, encoder=encoder, views=config.views, seed=0).to(device)
    wrapped = DistributedDataParallel(learner, broadcast_buffers=False) if count > 1 else learner
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
        "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
        "muon": lambda p: Muon(p, lr=1e-3),
    }
    optimiser = make[optimiser_name](learner.parameter_groups(0.05))
    plan = StepPlan(64, 16, 3, seed=0, ranks=count, rank=rank, accumulation=accumulation)
    maker = SampleMaker(Shapes(64), learner.views, seed=0)
    samples = iter(make_loader(maker, plan, start=0, workers=0, pin=False))
    found: dict[str, Any] = {}
    for step in range(3):
        views = [to_device(next(samples).views, torch.device(device)) for _ in range(accumulation)]
        context = learner.prepare(views, step / 3)
        losses = []
        for index, batch in enumerate(views):
            losses.append(wrapped(batch, context, index))
            (losses[-1].total / accumulation).backward()
        if step == 0:
            found["loss"] = mean_over_ranks(torch.stack([loss.total.detach() for loss in losses]).mean())
            found["parts"] = {
                name: mean_over_ranks(torch.stack([loss.terms[name] for loss in losses]).mean())
                for name in losses[0].terms
            }
            found["c"] = context.statistics[0]
            found["gradients"] = {n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None}
        optimiser.step()
        optimiser.zero_grad()
    found["weights"] = {name: value.clone() for name, value in learner.state_dict().items()}
    return found


def moco_v3_of_rank(rank: int, count: int) -> dict[str, Any]:
    """Loss, keys and gradients of MoCo-v3 on this rank's share of eight images."""
    from otherview.data.loader import SampleMaker, StepPlan, make_loader
    from otherview.data.shapes import Shapes
    from otherview.methods.build import build
    from otherview.recipes.registry import find

    config = find("moco_v3_cpu").make()
    encoder = config.encoder.model_copy(update={"width": 32, "depth": 1})
    method = config.method.model_copy(update={"hidden_width": 32, "output_width": 16})
    learner = build(method, encoder=encoder, views=config.views, seed=0)
    plan = StepPlan(8, 8, 1, seed=0, ranks=count, rank=rank)
    sample = next(iter(make_loader(SampleMaker(Shapes(8), learner.views, seed=0), plan, start=0, workers=0, pin=False)))
    context = learner.prepare([sample.views], 0.5)
    loss = learner(sample.views, context, 0).total
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "keys": context.keys[0], "gradients": gradients}


def features_of_rank(rank: int, spec: str) -> dict[str, Any]:
    """Every kind of feature of a folder with broken images."""
    from otherview.data.image import Preprocessing
    from otherview.data.spec import open_source
    from otherview.evaluation.features import FeatureSpec, extract_all
    from otherview.evaluation.split import fingerprints_of
    from otherview.nn.encoder import Encoder
    from otherview.nn.settings import EncoderSettings

    encoder = Encoder(EncoderSettings(image_size=(32, 32), patch_size=8, width=32, depth=1, heads=2))
    source, preprocessing, found = open_source(spec), Preprocessing((32, 32), (0.5,) * 3, (0.25,) * 3), dict[str, Any]()
    for spec in (FeatureSpec(), FeatureSpec(8)):
        told: list[int] = []
        both = extract_all(
            {"encoder": encoder, "pixels": None}, source, preprocessing, workers=0, spec=spec, advance=told.append
        )
        for name, features in both.items():
            found |= {f"{name}_{kind}": values.clone() for kind, values in features.tokens.items()}
            found["kept"] = features.kept
    words = fingerprints_of(source, np.arange(len(source)), workers=0)
    return found | {"words": torch.tensor([int(word[:12] or "0", 16) for word in words])}


def knn_of_rank(rank: int, count: int, spec: tuple[str, str]) -> dict[str, Any]:
    """kNN of a small encoder as this rank predicts it, and how many rows of the bank it held."""
    from otherview.data.image import Preprocessing
    from otherview.data.source import labels_of
    from otherview.data.spec import open_source
    from otherview.evaluation import knn as protocol
    from otherview.evaluation.frozen import FeatureMaker, Protocol, judge
    from otherview.evaluation.split import Split
    from otherview.nn.encoder import Encoder
    from otherview.nn.settings import EncoderSettings

    encoder = Encoder(EncoderSettings(image_size=(32, 32), patch_size=8, width=32, depth=1, heads=2))
    held: list[int] = []

    def classify(bank: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor) -> dict[str, torch.Tensor]:
        held.append(len(bank))
        found = protocol.knn_sweep(bank, labels, queries, ks=(1, 5), temperatures=(0.07,), shared=count > 1)
        return {f" k {k}": predicted for (k, _), predicted in found.items()}

    splits = []
    for words in spec:
        source = open_source(words)
        splits.append(Split(source, np.arange(len(source)), torch.from_numpy(labels_of(source, words))))
    maker = FeatureMaker(Preprocessing((32, 32), (0.5,) * 3, (0.25,) * 3), workers=0)
    wanted = Protocol("knn", {}, classify, shared=True)
    found, truth = judge({"encoder": encoder, "pixels": None}, (splits[0], splits[1]), maker, wanted)
    return {**found, "truth": truth, "held": torch.tensor(held)}


def computed_once_of_rank(rank: int) -> dict[str, Any]:
    """What rank 0 computes for all, and how a wrong request there reaches the others."""
    from otherview.distributed import computed_by_first
    from otherview.errors import WrongRequest

    calls: list[int] = []

    def work() -> int:
        calls.append(rank)
        return 7

    def refuse() -> None:
        raise WrongRequest("--shots 0 is too few")

    found = computed_by_first(work)
    try:
        computed_by_first(refuse)
        said = ""
    except WrongRequest as error:
        said = str(error)
    return {"found": found, "calls": len(calls), "said": said}
