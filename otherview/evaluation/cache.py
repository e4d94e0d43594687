"""Features that were computed before: the same weights, the same images, the same preprocessing.

    cache = FeatureCache(folder)
    found = cache.features(modules, source, preprocessing, indices=indices, fingerprints=fingerprints_of(source, indices))

A key is made of the weights, of the bytes of all images and of everything between them, so an entry never answers for
something else. Entries that were not asked for the longest make room for new ones. Several ranks share the work out
and keep nothing. What a classifier makes of raw pixels is the same beside every encoder, and is kept as well:

    predicted = cache.answers(f"knn {settings}", preprocessing, spec, fingerprints, answer=lambda: classify(…))
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import nn

from otherview.data.image import Preprocessing
from otherview.data.source import Source
from otherview.distributed import ranks
from otherview.evaluation.features import KINDS, WHOLE, Features, FeatureSpec, blank_of, extract_all
from otherview.evaluation.split import Advance
from otherview.files import atomically
from otherview.nn.encoder import Encoder
from otherview.weights.pretrained import weights_fingerprint

Answers = dict[str, torch.Tensor]
"""Predicted classes, by setting of the classifier."""
FORMAT = 1
"""Raised when features change for the same weights and images, so that old entries are not read."""
ANSWERS_FORMAT = 2
"""Raised when a classifier answers otherwise for the same features and settings."""
UNFINISHED = "tmp-"
ABANDONED = 86_400.0
"""Seconds after which nobody fills an unfinished entry any more."""
LARGEST = 20 * 2**30
"""Bytes of all entries; never more than half of what the disk has left."""


@dataclass(frozen=True)
class FeatureCache:
    """A folder with an entry for each encoder, data and kind of feature; None keeps nothing."""

    folder: Path | None

    def features(
        self,
        modules: Mapping[str, nn.Module | None],
        source: Source,
        preprocessing: Preprocessing,
        *,
        indices: np.ndarray,
        fingerprints: Sequence[str],
        workers: int = 1,
        advance: Advance = lambda _: None,
        spec: FeatureSpec = WHOLE,
        shared: bool = False,
    ) -> dict[str, Features]:
        """`extract_all` for what is not known yet; `fingerprints` are those of the images' bytes."""
        places = {name: self._place(module, preprocessing, spec, fingerprints) for name, module in modules.items()}
        found = {name: known for name, place in places.items() if (known := _read(place)) is not None}
        missing = {name: module for name, module in modules.items() if name not in found}
        kept = self._fitting(missing, preprocessing, spec, images=len(indices))
        temporary = {name: _begin(place) for name in kept if (place := places[name]) is not None}
        try:
            if missing:
                found |= extract_all(
                    missing, source, preprocessing, indices=indices, workers=workers, advance=advance, spec=spec,
                    kept_in=temporary, shared=shared,
                )  # fmt: skip
            else:
                advance(len(indices))
            for name, folder in temporary.items():
                _finish(folder, places[name], found[name])
        finally:
            for folder in temporary.values():
                shutil.rmtree(folder, ignore_errors=True)
        self._make_room()
        return {name: found[name] for name in modules}

    def answers(
        self,
        question: str,
        preprocessing: Preprocessing,
        spec: FeatureSpec,
        fingerprints: Sequence[str],
        *,
        answer: Callable[[], Answers],
    ) -> Answers:
        """`answer()`, or what it was before; `question` tells everything but raw pixels that it depends on."""
        place = self._place(None, preprocessing, spec, [f"{ANSWERS_FORMAT} {question}", *fingerprints])
        if place is None:
            return answer()
        file = place / "answers.npz"
        if file.is_file():
            os.utime(place)
            with np.load(file, allow_pickle=False) as known:
                return dict(zip(known["names"].tolist(), map(torch.from_numpy, known["predicted"]), strict=True))
        found = answer()
        place.mkdir(parents=True, exist_ok=True)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as opened:  # given a name, NumPy would add its own ending
                np.savez(opened, names=list(found), predicted=[values.numpy() for values in found.values()])

        atomically(file, write)
        return found

    def _place(
        self, module: nn.Module | None, preprocessing: Preprocessing, spec: FeatureSpec, fingerprints: Sequence[str]
    ) -> Path | None:
        """Where the entry is or will be; nowhere for modules whose code we cannot know, or where several ranks work."""
        if self.folder is None or ranks() > 1 or not isinstance(module, Encoder | None):
            return None
        device = "cpu" if module is None else next(module.parameters()).device.type
        what = "pixels" if module is None else f"{module.settings!r} {weights_fingerprint(module)}"
        key = blake2b(
            f"{FORMAT}|{torch.__version__}|{device}|{preprocessing!r}|{spec!r}|{what}|".encode(), digest_size=16
        )
        key.update(" ".join(fingerprints).encode())
        return self.folder / key.hexdigest()

    def _fitting(
        self, modules: Mapping[str, nn.Module | None], preprocessing: Preprocessing, spec: FeatureSpec, *, images: int
    ) -> list[str]:
        """The modules whose features may be kept: all, or none where they would take too much of the disk."""
        if self.folder is None or not modules:
            return []
        rows = [row for module in modules.values() for row in blank_of(module, preprocessing, spec).values()]
        self.folder.mkdir(parents=True, exist_ok=True)
        return list(modules) if 4 * images * sum(map(torch.numel, rows)) < self._room() else []

    def _room(self) -> int:
        assert self.folder is not None
        return min(LARGEST, shutil.disk_usage(self.folder).free // 2)

    def _make_room(self) -> None:
        """Remove what a killed process left, and what was not asked for the longest until the rest is small enough."""
        if self.folder is None or not self.folder.is_dir():
            return
        room = self._room()
        for entry in sorted(self.folder.iterdir(), key=_age, reverse=True):
            unfinished = entry.name.startswith(UNFINISHED)
            if unfinished and time.time() - _age(entry) < ABANDONED:
                continue  # another process fills it
            room -= _size(entry)
            if room < 0 or unfinished:
                shutil.rmtree(entry, ignore_errors=True)


def _age(entry: Path) -> float:
    with suppress(OSError):  # another process makes room too
        return entry.stat().st_mtime
    return 0.0


def _size(entry: Path) -> int:
    with suppress(OSError):
        return sum(file.stat().st_size for file in entry.iterdir())
    return 0


def _begin(place: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=place.parent, prefix=UNFINISHED))


def _finish(folder: Path, place: Path | None, features: Features) -> None:
    """Give a filled folder its name, once its content is on the disk."""
    assert place is not None
    np.save(folder / "kept.npy", features.kept.numpy())
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file)
    try:
        folder.rename(place)
    except OSError:  # another process was faster; the entries are the same
        return


def _read(place: Path | None) -> Features | None:
    """An entry, mapped rather than read."""
    if place is None or not (place / "kept.npy").is_file():
        return None
    os.utime(place)
    kept = torch.from_numpy(np.load(place / "kept.npy", allow_pickle=False))
    files = {kind: place / f"{kind}.npy" for kind in KINDS}
    arrays = {kind: np.load(path, "c", allow_pickle=False) for kind, path in files.items() if path.exists()}
    return Features({kind: torch.from_numpy(values[: len(kept)]) for kind, values in arrays.items()}, kept)
