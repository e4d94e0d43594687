"""The naive twins: written plainly, as the formulas read, to be tested and measured against.

Axes: N tokens, D width.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def unigrad_by_similarities(y: Float[Tensor, "N D"], z: Float[Tensor, "N D"], *, weight: float) -> Float[Tensor, ""]:
    """UniGrad's value through the N×N similarities: mean yᵀ·C·y is the mean squared similarity of all pairs."""
    width = y.shape[1]
    positive = (y - z).square().sum(dim=1).mean()
    negative = (y @ z.T).square().sum(dim=1).mean() / len(z)
    return (positive + weight * negative) / width


def knn_by_loop(bank: Tensor, labels: Tensor, queries: Tensor, *, k: int, temperature: float) -> Tensor:
    """Weighted kNN, one query and one vote at a time."""
    predicted = []
    for query in queries:
        similarity = torch.nn.functional.cosine_similarity(query[None], bank, dim=1)
        votes = [0.0] * (int(labels.max()) + 1)
        for index in similarity.argsort(descending=True)[:k].tolist():
            votes[int(labels[index])] += float((similarity[index] / temperature).exp())
        predicted.append(max(range(len(votes)), key=votes.__getitem__))
    return torch.tensor(predicted)
