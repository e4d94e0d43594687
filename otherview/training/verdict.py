"""Is it learning or has it collapsed? Plain words from the journal, each by a written rule. Torch-free.

The effective rank of C says how many directions the targets fill. It starts near 3, because an untrained network
maps all images to nearly the same tokens, and climbs after some hundred steps where learning sets in.
"""

from collections.abc import Mapping, Sequence
from typing import Any

COLLAPSED_RANK = 4.0
"""At or under this effective rank the targets of a run fill no more directions than those of an untrained network."""
LEARNT_POINTS = 0.05
"""Where an online kNN was asked for, it decides: a gain of this much over the untrained encoder is learning."""


def verdict(lines: Sequence[Mapping[str, Any]]) -> str:
    """The verdict on a finished run, with the action to take."""
    ranks = [line["effective_rank"] for line in lines if line.get("effective_rank") is not None]
    if not ranks:
        return "unknown: nothing was logged; lower training.log_every"
    directions = f"the targets fill {ranks[-1]:.1f} directions"
    knn = [line["knn_mean"] for line in lines if "knn_mean" in line]
    if len(knn) > 1 and knn[-1] - knn[0] >= LEARNT_POINTS:
        return f"learning: kNN {knn[0]:.3f} → {knn[-1]:.3f}, {directions}"
    if ranks[-1] <= COLLAPSED_RANK:
        return (
            f"collapsed: {directions}; raise method.negative_weight so that "
            "negative_weight · head_width is near 15, or train for more steps"
        )
    if len(knn) > 1:
        return f"slow: {directions}, but kNN went {knn[0]:.3f} → {knn[-1]:.3f}; train for more steps"
    return f"learning: {directions}"
