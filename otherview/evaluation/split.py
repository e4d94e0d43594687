"""The two splits of an evaluation: images to learn from and images to be judged on, labelled alike and sharing none.

train, test = open_splits(settings)                        # raises WrongRequest before any work
train, test = with_fingerprints((train, test), workers=1, allow_shared=False)
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from otherview.data.source import Relabelled, Source, first_of, labels_of, same_numbers
from otherview.data.spec import open_source
from otherview.errors import WrongRequest
from otherview.evaluation.fingerprint import fingerprints_of, refuse_shared
from otherview.evaluation.settings import LabelledSettings
from otherview.launch import launched_rank, shortened
from otherview.training.console import RunProgress

SHORTENED_IMAGES = 200
"""Images of a split where a shortened run is asked for."""


@dataclass(frozen=True)
class Split:
    """Labelled images: which of a source's, and their classes, numbered without gaps."""

    source: Source
    indices: np.ndarray
    labels: Int[Tensor, "N *pixels"]
    names: Sequence[str] = ()
    """Of the classes, by number."""
    fingerprints: Sequence[str] = ()
    """Of the images' bytes, where they were read."""

    @property
    def relabelled(self) -> Source:
        """The images as a source, with the split's numbers of classes."""
        return Relabelled(self.source, self.indices, labels=self.labels.numpy(), names=self.names)


def images_used(count: int | None, *, few: int = SHORTENED_IMAGES) -> int | None:
    """So many images of a split, or `few` at most where a shortened run is asked for; raises WrongRequest for none."""
    if count is not None and count < 1:
        raise WrongRequest(f"--train-images or --test-images {count} is too few: give 1 or more, or leave it out")
    return min(count or few, few) if shortened() else count


def open_splits(settings: LabelledSettings) -> tuple[Split, Split]:
    """Both splits, with labels in the numbers of the training images."""
    sources = open_source(settings.train), open_source(settings.test)
    labels = [labels_of(source, spec) for source, spec in zip(sources, (settings.train, settings.test), strict=True)]
    labels[1] = same_numbers(labels[1], of=sources[1].classes, like=sources[0].classes)
    counts = images_used(settings.train_images), images_used(settings.test_images)
    indices = [first_of(source, count) for source, count in zip(sources, counts, strict=True)]
    train_labels, test_labels = (known[chosen] for known, chosen in zip(labels, indices, strict=True))
    present, dense = np.unique(train_labels, return_inverse=True)
    check_classes(present.tolist(), test_labels.tolist())
    named = sources[0].classes
    names = [str(named[kind]) if named else str(kind) for kind in present.tolist()]
    both = dense, np.searchsorted(present, test_labels)
    train, test = (
        Split(source, chosen, torch.from_numpy(known.astype(np.int64)), names)
        for source, chosen, known in zip(sources, indices, both, strict=True)
    )
    return train, test


def check_classes(train: Collection[int], test: Collection[int]) -> None:
    """Raise WrongRequest unless every test class can be learned and there are two classes to tell apart."""
    known = set(train)
    if unknown := sorted(set(test) - known):
        raise WrongRequest(f"--test has classes that --train lacks ({unknown[:5]}): use the same classes in both")
    if len(known) < 2:
        raise WrongRequest(f"--train has one class only ({known.pop()}): classification needs two or more")


def with_fingerprints(splits: tuple[Split, Split], *, workers: int, allow_shared: bool) -> tuple[Split, Split]:
    """Both splits with their images' fingerprints; raises WrongRequest where they share some, unless that is allowed."""
    total = sum(len(split.indices) for split in splits)
    with RunProgress(total=total, title="comparing images", speak=launched_rank() == 0) as progress:
        train, test = (
            replace(
                split,
                fingerprints=fingerprints_of(split.source, split.indices, workers=workers, advance=progress.advance),
            )
            for split in splits
        )
    if not allow_shared:
        refuse_shared(
            train.fingerprints, test.fingerprints, name_of=lambda place: test.source.name(int(test.indices[place]))
        )
    return train, test


def labels_fingerprint(split: Split) -> str:
    """Sixteen hexadecimal digits of which images a split has, with which bytes and in which classes."""
    digest = blake2b("\n".join([*split.names, *split.fingerprints]).encode(), digest_size=8)
    digest.update(split.indices.tobytes() + split.labels.numpy().tobytes())
    return digest.hexdigest()
