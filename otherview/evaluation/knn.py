"""Weighted k-nearest-neighbour classification on frozen features (specification 2).

Cosine similarity, the k most similar images of a bank vote with weight exp(similarity / temperature).
Axes: N bank images, Q queries, D width, K classes.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
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
    assert 0 < k <= len(bank), (k, len(bank))
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    classes = int(labels.max()) + 1
    votes = []
    for part in queries.split(chunk):
        similarity, nearest = (part @ bank.T).topk(k, dim=1)
        weight = ((similarity - 1) / temperature).exp()  # −1 scales every vote alike and keeps exp in range
        votes.append(torch.zeros(len(part), classes).scatter_add_(1, labels[nearest], weight).argmax(dim=1))
    return torch.cat(votes)


def accuracy(predicted: Int[Tensor, " Q"], truth: Int[Tensor, " Q"]) -> float:
    """Share of agreement in [0, 1]."""
    return (predicted == truth).double().mean().item()
