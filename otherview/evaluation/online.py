"""What an encoder has learned so far, looked at while it is trained: callbacks on whose metrics the verdict of a run rests.

With labelled images kNN, beside raw pixels; without labels patch retrieval and RankMe (Q. Garrido et al., arXiv 2210.02885). The
first look is at the encoder before training; where that starts from weights, an untrained one stands beside it.

Axes: N images, D width, Q queries.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from otherview.data.image import Preprocessing
from otherview.data.source import Source, first_of, labels_of, same_numbers
from otherview.evaluation.features import FeatureSpec, extract_all, tokens_of
from otherview.evaluation.knn import accuracy, knn_predict
from otherview.evaluation.retrieval import pairs, retrieve, share_found
from otherview.evaluation.split import images_used
from otherview.geometry import PatchGrid
from otherview.methods.learner import Learner
from otherview.nn.encoder import Encoder
from otherview.training.callbacks import Callback

MOST_PIXELS = 2**30
"""Bytes of raw pixels that are held as features; larger images are shown smaller."""


@dataclass
class OnlineKnn(Callback):
    """kNN of the online encoder's mean and cls token: up to `bank_size` images judge up to `query_size` others."""

    bank: Source
    queries: Source
    preprocessing: Preprocessing
    every: int = 500
    bank_size: int = 5000
    query_size: int = 2000
    untrained: Encoder | None = None
    """Of a run that starts from weights: looked at once, to stand beside them."""
    _labels: list[Tensor] = field(default_factory=list)

    def on_step(self, step: int, learner: Learner) -> Mapping[str, float]:
        """Accuracies in [0, 1]; before the first step also the references' and the number of test images."""
        encoder = next(iter(learner.encoders.values()))
        found, images = self._accuracies(encoder, self.preprocessing)
        if step:
            return found
        chance = float(torch.bincount(self._labels[1]).max()) / len(self._labels[1])
        found |= {"knn_images": images, "knn_chance": chance} | self._accuracies(None, self._small)[0]
        if self.untrained is not None:
            twin = self.untrained.to(next(encoder.parameters()).device)
            beside, _ = self._accuracies(twin, self.preprocessing)
            found |= {name.replace("knn_", "knn_untrained_"): value for name, value in beside.items()}
        return found

    @property
    def _small(self) -> Preprocessing:
        """Images of a size at which all of their pixels fit into memory."""
        size = self.preprocessing.size
        row = 4 * (self.bank_size + self.query_size) * self.preprocessing.channels
        while row * prod(size) > MOST_PIXELS and min(size) > 1:
            size = size[0] // 2, size[1] // 2
        return self.preprocessing._replace(size=size)

    def _accuracies(self, module: nn.Module | None, preprocessing: Preprocessing) -> tuple[dict[str, float], int]:
        """By kind of token, and over how many test images; of no module, the pixels themselves."""
        counts = images_used(self.bank_size), images_used(self.query_size)
        indices = [first_of(source, count) for source, count in zip((self.bank, self.queries), counts, strict=True)]
        if not self._labels:
            everyone = (
                labels_of(self.bank, "the bank of the online kNN"),
                labels_of(self.queries, "the online kNN's test data"),
            )
            everyone = everyone[0], same_numbers(everyone[1], of=self.queries.classes, like=self.bank.classes)
            self._labels = [torch.from_numpy(labels[chosen]) for labels, chosen in zip(everyone, indices, strict=True)]
        bank, queries = (
            extract_all({"it": module}, source, preprocessing, indices=chosen)["it"]
            for source, chosen in zip((self.bank, self.queries), indices, strict=True)
        )
        known, truth = self._labels[0][bank.kept], self._labels[1][queries.kept]
        k = min(20, len(known))
        found = {
            f"knn_{kind}": accuracy(knn_predict(rows, known, queries.tokens[kind], k=k), truth)
            for kind, rows in bank.tokens.items()
        }
        return found, len(truth)


@dataclass
class OnlineRetrieval(Callback):
    """Without labels: how many patches of one view find their place in another, and how many directions the features use."""

    source: Source
    preprocessing: Preprocessing
    grid: PatchGrid
    every: int = 500
    images: int = 100
    workers: int = 1
    untrained: Encoder | None = None
    """Of a run that starts from weights: looked at once, to stand beside them."""

    def on_step(self, step: int, learner: Learner) -> Mapping[str, float]:
        """The share of patches in [0, 1] with its standard error, and RankMe of the mean tokens of the same views."""
        encoder = next(iter(learner.encoders.values()))
        found = self._measured(encoder)
        if step or self.untrained is None:
            return found
        beside = self._measured(self.untrained.to(next(encoder.parameters()).device))
        return found | {f"{name}_untrained": beside[name] for name in beside if name != "retrieval_error"}

    def _measured(self, encoder: Encoder) -> dict[str, float]:
        """Nothing where fewer than two images can be read and show the same in both views."""
        indices = first_of(self.source, images_used(self.images))
        if len(indices) < 2:
            return {}
        made = pairs(
            self.source, indices, self.preprocessing, self.grid, seed=0, workers=self.workers, named=False
        )  # training names what cannot be read
        views = list(made)
        spec = FeatureSpec(encoder.settings.patch_size)
        found, shown = retrieve({"it": encoder}, iter(views), self.preprocessing, grid=self.grid, spec=spec)["it"]
        if shown.any(dim=1).sum() < 2:
            return {}
        share, error, _ = share_found(found, shown)
        means = [
            tokens_of(encoder, view.pixels, self.preprocessing, FeatureSpec())["mean"]
            for pair in views
            for view in pair
        ]
        return {"retrieval": share, "retrieval_error": error, "rankme": float(rankme(torch.cat(means)))}


def rankme(features: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """exp(entropy of the singular values' shares), 1 … min(N, D): Garrido et al., equation 1, its epsilon 1e-7."""
    values = torch.linalg.svdvals(features.double().cpu())
    share = values / values.sum() + 1e-7
    return torch.exp(-(share * share.log()).sum())
