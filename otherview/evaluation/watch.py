"""Online kNN: the curve to watch, because the loss says little. An Observer for the training loop."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from otherview.data.picture import Look
from otherview.data.source import Source, labels_of, same_numbers
from otherview.evaluation.features import extract, first_of
from otherview.evaluation.knn import accuracy, knn_predict
from otherview.learner import Learner


@dataclass
class OnlineKnn:
    """kNN of the online encoder's mean and cls token: up to `bank_size` images judge up to `query_size` others."""

    bank: Source
    queries: Source
    every: int
    look: Look
    bank_size: int = 5000
    query_size: int = 2000
    _labels: list[Tensor] = field(default_factory=list)

    def see(self, step: int, learner: Learner) -> Mapping[str, float]:
        """Accuracies in [0, 1]."""
        encoder = next(iter(learner.encoders.values()))
        indices = [first_of(self.bank, self.bank_size), first_of(self.queries, self.query_size)]
        if not self._labels:
            everyone = (
                labels_of(self.bank, "the bank of the online kNN"),
                labels_of(self.queries, "the online kNN's test data"),
            )
            everyone = everyone[0], same_numbers(everyone[1], of=self.queries.classes, like=self.bank.classes)
            self._labels = [torch.from_numpy(labels[chosen]) for labels, chosen in zip(everyone, indices, strict=True)]
        bank, queries = (
            extract(encoder, source, self.look, indices=chosen)
            for source, chosen in zip((self.bank, self.queries), indices, strict=True)
        )
        known, truth = self._labels[0][bank.kept], self._labels[1][queries.kept]
        k = min(20, len(known))
        return {
            f"knn_{token}": accuracy(knn_predict(bank.tokens[token], known, queries.tokens[token], k=k), truth)
            for token in ("mean", "cls")
        }
