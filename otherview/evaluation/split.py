"""The two splits of an evaluation: images to learn from and images to be judged on, labelled alike and sharing none.

train, test = open_splits(settings)                        # raises WrongRequest before any work
train, test = with_fingerprints((train, test), workers=1, allow_shared=False)

Images are told apart by fingerprints of their bytes, not by their names.
"""

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from otherview.data.first_images import settled
from otherview.data.image import Preprocessing
from otherview.data.source import Relabelled, Selected, Source, first_of, labels_of, same_numbers
from otherview.data.spec import open_aloud
from otherview.data.workers import Batches
from otherview.distributed import gather_objects, rank, ranks
from otherview.errors import BrokenImage, WrongRequest
from otherview.evaluation.grouping import check_apart, groups_of, held_out
from otherview.evaluation.settings import LabelledSettings
from otherview.launch import launched_rank, shortened
from otherview.training.console import RunProgress

Advance = Callable[[int], None]
"""Called with the number of images done."""


@dataclass(frozen=True)
class _Digests(Dataset[str]):
    source: Source
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> str:
        try:
            return blake2b(self.source.read(int(self.indices[place])), digest_size=16).hexdigest()
        except BrokenImage:
            return ""


def fingerprints_of(
    source: Source, indices: np.ndarray, *, workers: int = 1, advance: Advance = lambda _: None
) -> list[str]:
    """A digest of every image's bytes, undecoded; empty where they cannot be read. Ranks share the work out."""
    mine = _Digests(source, np.array_split(indices, ranks())[rank()])
    found: list[str] = []
    for words in Batches(mine, workers=workers, batch_size=250):
        found += words
        advance(len(words) * ranks())
    return [word for part in gather_objects(found) for word in part]


def refuse_shared(train: Sequence[str], test: Sequence[str], *, name_of: Callable[[int], str]) -> None:
    """Raise WrongRequest at the first test image that is a training image too; `name_of` names a test image."""
    known = set(train) - {""}
    for place, word in enumerate(test):
        if word in known:
            raise WrongRequest(
                f"{name_of(place)} is in both the training and the test images, which would inflate the score: remove it "
                "from one side, or give --allow-shared"
            )


SPLIT_SEED = 0
"""Of what is held out: the same images for every command and every run, so that scores can be compared."""
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
    sources = _sides(settings)
    labels = [
        labels_of(source, spec) for source, spec in zip(sources, (settings.train, settings.judged_on), strict=True)
    ]
    labels[1] = same_numbers(labels[1], of=sources[1].classes, like=sources[0].classes)
    counts = images_used(settings.train_images), images_used(settings.test_images)
    indices = [first_of(source, count) for source, count in zip(sources, counts, strict=True)]
    train_labels, test_labels = (known[chosen] for known, chosen in zip(labels, indices, strict=True))
    present, dense = np.unique(train_labels, return_inverse=True)
    named = sources[0].classes
    check_classes(present.tolist(), test_labels.tolist(), names=named)
    names = [str(named[kind]) if named else str(kind) for kind in present.tolist()]
    both = dense, np.searchsorted(present, test_labels)
    train, test = (
        Split(source, chosen, torch.from_numpy(known.astype(np.int64)), names)
        for source, chosen, known in zip(sources, indices, both, strict=True)
    )
    return train, test


def _sides(settings: LabelledSettings) -> tuple[Source, Source]:
    """Training and test images; no group is on both sides."""
    train, by = open_aloud(settings.train), settings.group_by
    if settings.test is None:
        groups, labels = groups_of(train, settings.train, by=by) if by else None, labels_of(train, settings.train)
        judged = held_out(labels, groups, share=settings.test_share, seed=SPLIT_SEED, names=train.classes)
        return Selected(train, np.flatnonzero(~judged)), Selected(train, np.flatnonzero(judged))
    test = open_aloud(settings.test)
    if by:
        check_apart(groups_of(train, settings.train, by=by), groups_of(test, settings.test, by=by), by=by)
    return train, test


def check_classes(train: Collection[int], test: Collection[int], *, names: Sequence[str] | None) -> None:
    """Raise WrongRequest unless every test class can be learned and there are two classes to tell apart."""

    def said(kinds: Collection[int]) -> str:
        return ", ".join(names[kind] if names else str(kind) for kind in kinds)

    known = set(train)
    if unknown := sorted(set(test) - known):
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise WrongRequest(
            f"--test has classes that --train lacks ({said(unknown[:5])}{more}): use the same classes in both"
        )
    if len(known) < 2:
        raise WrongRequest(f"--train has one class only ({said(known)}): classification needs two or more")


def settled_images(sources: Sequence[Source], preprocessing: Preprocessing) -> Preprocessing:
    """The preprocessing with what the values of both splits' images mean, the training images first.

    Raises WrongRequest where a split's images are not of the kind that an encoder sees.
    """
    for flag, source in zip(("--train", "--test"), sources, strict=True):
        preprocessing = settled(source, preprocessing, flag=flag, fixed=True)
    return preprocessing


def with_fingerprints(
    splits: tuple[Split, Split], *, workers: int, allow_shared: bool, held_out: bool = False
) -> tuple[Split, Split]:
    """Both splits with their images' fingerprints; raises WrongRequest where they share some, unless that is allowed.

    Where the test images were `held_out` of the training images, what is there twice (blank slices, copies) is learned from, and
    left out of the test.
    """
    total = sum(len(split.indices) for split in splits)
    with RunProgress(total=total, title="comparing images", speak=launched_rank() == 0) as progress:
        train, test = (
            replace(
                split,
                fingerprints=fingerprints_of(split.source, split.indices, workers=workers, advance=progress.advance),
            )
            for split in splits
        )
    if held_out and not allow_shared:
        test = _unseen(test, train.fingerprints)
    elif not allow_shared:
        refuse_shared(
            train.fingerprints, test.fingerprints, name_of=lambda place: test.source.name(int(test.indices[place]))
        )
    return train, test


def _unseen(test: Split, known: Sequence[str]) -> Split:
    """The images that are not among those learned from, with a word of how many are."""
    seen = set(known) - {""}
    kept = np.array([word not in seen for word in test.fingerprints])
    if kept.all():
        return test
    if not kept.any():
        raise WrongRequest("every image that was held out is also among those learned from: give --test")
    if launched_rank() == 0:
        print(
            f"{int((~kept).sum()):,} images that were held out are copies of others, and are not judged",
            file=sys.stderr,
        )
    words = [word for word, there in zip(test.fingerprints, kept, strict=True) if there]
    return replace(test, indices=test.indices[kept], labels=test.labels[torch.from_numpy(kept)], fingerprints=words)


def labels_fingerprint(split: Split) -> str:
    """Sixteen hexadecimal digits of which images a split has, with which bytes and in which classes."""
    digest = blake2b("\n".join([*split.names, *split.fingerprints]).encode(), digest_size=8)
    digest.update(split.indices.tobytes() + split.labels.numpy().tobytes())
    return digest.hexdigest()
