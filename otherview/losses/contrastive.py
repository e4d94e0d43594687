"""Find the own key among everyone's: InfoNCE, as MoCo-v3 has it.

Source: MoCo-v3, arXiv 2104.02057; our specification 4.
Axes: B queries, K keys, D width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def info_nce(
    queries: Float[Tensor, "B D"], keys: Float[Tensor, "K D"], own: Int[Tensor, " B"], *, temperature: float
) -> Float[Tensor, ""]:
    """Mean cross-entropy of every query's similarities to all keys, `own` holding the place of its key, times 2·temperature.

    Queries and keys are L2-normalised here. float32 throughout.
    """
    with torch.autocast(queries.device.type, enabled=False):
        similarities = F.normalize(queries.float(), dim=1) @ F.normalize(keys.float(), dim=1).T
        return 2 * temperature * F.cross_entropy(similarities / temperature, own)
