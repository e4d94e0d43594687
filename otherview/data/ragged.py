"""Rows of several images, where each image has as many as it has; collated by joining, not by stacking.

Axes: n rows of one image, N rows of all, B images.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils.data._utils.collate import collate, default_collate_fn_map


class Ragged(NamedTuple):
    """Of one image, or of a batch: the rows of all its images one after another."""

    values: Shaped[Tensor, "N *shape"]
    counts: Int[Tensor, "*B"]

    @classmethod
    def of(cls, values: Tensor) -> "Ragged":
        """The rows of one image."""
        return cls(values, torch.tensor(len(values)))

    def split(self) -> Sequence[Tensor]:
        """The rows of each image of a batch."""
        return self.values.split(self.counts.tolist())


def _join(batch: Sequence[Ragged], *, collate_fn_map: Any = None) -> Ragged:
    return Ragged(torch.cat([rows.values for rows in batch]), torch.stack([rows.counts for rows in batch]))


collate_samples = partial(collate, collate_fn_map={**default_collate_fn_map, Ragged: _join})
"""torch's own way to make a batch of samples, which knows Ragged as well."""
