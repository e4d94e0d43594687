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
from otherview.evaluation.features import FeatureSpec, extract_all
from otherview.evaluation.knn import accuracy, knn_predict
from otherview.evaluation.retrieval import found_places, pairs, patches_of_pairs, share_found, without_position
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
        modules: dict[str, nn.Module | None] = {"knn": encoder}
        if step == 0 and self.untrained is not None:
            modules["knn_untrained"] = self.untrained.to(next(encoder.parameters()).device)
        found, images = self._accuracies(modules, self.preprocessing)
        if step:
            return found
        chance = float(torch.bincount(self._labels[1]).max()) / len(self._labels[1])
        pixels, _ = self._accuracies({"knn": None}, self._small)
        return {**found, **pixels, "knn_images": images, "knn_chance": chance}

    @property
    def _small(self) -> Preprocessing:
        """Images of a size at which all of their pixels fit into memory."""
        size = self.preprocessing.size
        row = 4 * (self.bank_size + self.query_size) * self.preprocessing.channels
        while row * prod(size) > MOST_PIXELS and min(size) > 1:
            size = size[0] // 2, size[1] // 2
        return self.preprocessing._replace(size=size)

    def _accuracies(
        self, modules: Mapping[str, nn.Module | None], preprocessing: Preprocessing
    ) -> tuple[dict[str, float], int]:
        """By module and kind of token, and over how many test images; of no module, the pixels themselves."""
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
            extract_all(modules, source, preprocessing, indices=chosen)
            for source, chosen in zip((self.bank, self.queries), indices, strict=True)
        )
        kept = (next(iter(side.values())).kept for side in (bank, queries))
        known, truth = (labels[places] for labels, places in zip(self._labels, kept, strict=True))
        k = min(20, len(known))
        found = {
            f"{name}_{kind}": accuracy(knn_predict(rows, known, queries[name].tokens[kind], k=k), truth)
            for name, features in bank.items()
            for kind, rows in features.tokens.items()
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
        views = pairs(
            self.source, indices, self.preprocessing, self.grid, seed=0, workers=self.workers, named=False
        )  # training names what cannot be read
        spec = FeatureSpec(encoder.settings.patch_size)
        tokens, crops = patches_of_pairs({"it": encoder}, views, self.preprocessing, spec=spec)
        online, target = tokens["it"]
        found, shown = found_places(without_position(online), without_position(target), crops, self.grid)
        if shown.any(dim=1).sum() < 2:
            return {}
        share, error, _ = share_found(found, shown)
        means = torch.cat([online, target]).mean(dim=1)
        return {"retrieval": share, "retrieval_error": error, "rankme": float(rankme(means))}


def rankme(features: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """exp(entropy of the singular values' shares), 1 … min(N, D): Garrido et al., equation 1, its epsilon 1e-7."""
    values = torch.linalg.svdvals(features.double().cpu())
    share = values / values.sum() + 1e-7
    return torch.exp(-(share * share.log()).sum())
