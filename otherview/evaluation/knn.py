"""Weighted k-nearest-neighbour classification on frozen features (specification 2).

Cosine similarity, the k most similar images of a bank vote with weight exp(similarity / temperature).
Axes: N bank images, Q queries, D width, K classes.
"""

from collections.abc import Sequence
from itertools import product
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from otherview.distributed import gather_objects, ranks
from otherview.errors import WrongRequest
from otherview.evaluation.frozen import Protocol, judge_frozen
from otherview.evaluation.settings import KnnSettings
from otherview.scores import Scores
from otherview.signature import takes

V = TypeVar("V", int, float)


def knn_predict(
    bank: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    queries: Float[Tensor, "Q D"],
    *,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1000,
) -> Int[Tensor, " Q"]:
    """The predicted class of every query; memory is chunk × N."""
    return knn_sweep(bank, labels, queries, ks=(k,), temperatures=(temperature,), chunk=chunk)[k, temperature]


@torch.no_grad()
def knn_sweep(
    bank: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    queries: Float[Tensor, "Q D"],
    *,
    ks: Sequence[int],
    temperatures: Sequence[float],
    chunk: int = 1000,
    shared: bool = False,
) -> dict[tuple[int, float], Int[Tensor, " Q"]]:
    """The predicted class of every query for every k and temperature, similarities computed once.

    With `shared` the bank is this rank's share of one, and all ranks ask the same queries.
    """
    everyone = gather_objects if shared else lambda thing: [thing]
    assert 0 < min(ks) <= max(ks) <= sum(everyone(len(bank))), (ks, len(bank))
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    classes = max(everyone(int(labels.max()) + 1 if len(labels) else 0))
    votes: dict[tuple[int, float], list[Tensor]] = {setting: [] for setting in product(ks, temperatures)}
    for part in queries.split(chunk):
        similarity, nearest = (part @ bank.T).topk(min(max(ks), len(bank)), dim=1)
        kinds = labels[nearest]
        if shared:  # the nearest of all shares are among the nearest of each
            similarity, kinds = (torch.cat(parts, dim=1) for parts in zip(*everyone((similarity, kinds)), strict=True))
            similarity, places = similarity.topk(max(ks), dim=1)
            kinds = kinds.gather(1, places)
        for (k, temperature), found in votes.items():
            beyond = similarity[:, :k] - similarity[:, :1]  # less the nearest: one vote is always 1
            weight = (beyond / temperature).exp()
            vote = torch.zeros(len(part), classes).scatter_add_(1, kinds[:, :k], weight)
            found.append(vote.argmax(dim=1))
    return {setting: torch.cat(parts) for setting, parts in votes.items()}


def accuracy(predicted: Int[Tensor, " Q"], truth: Int[Tensor, " Q"]) -> float:
    """Share of agreement in [0, 1]."""
    return (predicted == truth).double().mean().item()


@takes(KnnSettings)
def knn(settings: KnnSettings) -> Scores:
    """Weighted kNN of the mean and the cls token, next to the untrained encoder and raw pixels."""
    ks, temperatures = _several(settings.k), _several(settings.temperature)
    if not ks or not temperatures or min(ks) < 1 or min(temperatures) <= 0:
        raise WrongRequest(f"--k {ks} and --temperature {temperatures} must all be above 0")
    several = len(ks) * len(temperatures) > 1

    def classify(bank: Tensor, labels: Tensor, queries: Tensor) -> dict[str, Tensor]:
        readable = sum(gather_objects(len(bank)))
        if max(ks) > readable:
            raise WrongRequest(
                f"--k {max(ks)} is larger than the {readable} training images that can be read: use fewer"
            )
        found = knn_sweep(bank, labels, queries, ks=ks, temperatures=temperatures, shared=ranks() > 1)
        return {f" (k {k}, temperature {t:g})" if several else "": predicted for (k, t), predicted in found.items()}

    known = {"k": ks, "temperature": temperatures} if several else {"k": ks[0], "temperature": temperatures[0]}
    return judge_frozen(settings, Protocol("knn", known, classify, least_images=max(ks), shared=True))


def _several(value: V | tuple[V, ...]) -> tuple[V, ...]:
    return value if isinstance(value, tuple) else (value,)
