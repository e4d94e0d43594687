"""Weighted k-nearest-neighbour classification on frozen features (specification 2).

Cosine similarity, the k most similar images of a bank vote with weight exp(similarity / temperature).
Axes: N bank images, Q queries, D width, K classes.
"""

from collections.abc import Sequence
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


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
) -> dict[tuple[int, float], Int[Tensor, " Q"]]:
    """The predicted class of every query for every k and temperature, similarities computed once."""
    assert 0 < min(ks) <= max(ks) <= len(bank), (ks, len(bank))
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    classes = int(labels.max()) + 1
    votes: dict[tuple[int, float], list[Tensor]] = {setting: [] for setting in product(ks, temperatures)}
    for part in queries.split(chunk):
        similarity, nearest = (part @ bank.T).topk(max(ks), dim=1)
        for (k, temperature), found in votes.items():
            beyond = similarity[:, :k] - similarity[:, :1]  # less the nearest: one vote is always 1
            weight = (beyond / temperature).exp()
            vote = torch.zeros(len(part), classes).scatter_add_(1, labels[nearest[:, :k]], weight)
            found.append(vote.argmax(dim=1))
    return {setting: torch.cat(parts) for setting, parts in votes.items()}


def accuracy(predicted: Int[Tensor, " Q"], truth: Int[Tensor, " Q"]) -> float:
    """Share of agreement in [0, 1]."""
    return (predicted == truth).double().mean().item()
