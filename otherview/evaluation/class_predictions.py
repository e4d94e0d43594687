"""What a fitted classifier says of new images: a line an image, its class and the probability of every class.

Axes: N images, K classes.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float

from otherview.data.first_images import settled
from otherview.data.source import Source
from otherview.distributed import computed_by_first, rank
from otherview.errors import WrongRequest
from otherview.evaluation.embedding import save_rows
from otherview.evaluation.features import extract_all
from otherview.evaluation.parts import NewImages, Parts
from otherview.files import atomically
from otherview.launch import launched_rank
from otherview.training.console import RunProgress
from otherview.weights.pretrained import Classifier, load_classifier, weights_fingerprint

PART = 1000
ENDINGS = (".csv", ".parquet")


def predict_classes(model: Path, new: NewImages) -> dict[str, Any]:
    """Write the file, or go on with it; returns how many images it has, and of which classes."""
    source, out = new.source, new.out
    if out.suffix not in ENDINGS:
        raise WrongRequest(f"--out {out} must end in {' or '.join(ENDINGS)}: a line an image")
    classifier = load_classifier(model)
    classifier.encoder.to(new.device)
    classifier.head.to(new.device)
    preprocessing = settled(source, classifier.card.preprocessing, flag="--data", fixed=True)
    models = {"weights": classifier.encoder, "head": classifier.head}
    known = {**new.about, **{name: weights_fingerprint(module) for name, module in models.items()}}
    parts = Parts(path=out, about=known, images=len(source), size=PART)
    parts.open()
    with RunProgress(total=len(source), title="classes", speak=launched_rank() == 0) as progress:
        for start, indices, there in parts.all():
            if not there:
                found = extract_all(
                    {"it": classifier.encoder}, source, preprocessing, indices=indices, workers=new.workers
                )["it"]
                chances = probabilities(classifier, found.tokens["mean"])
                rows = {"chances": chances, "indices": indices[found.kept.numpy()]}
                if rank() == 0:
                    atomically(parts.place(start), lambda path, rows=rows: save_rows(path, rows))
            progress.advance(len(indices))
    counts = computed_by_first(lambda: _join(out, parts, source, classifier.classes))
    parts.close()
    return {"images": sum(counts.values()), "classes": counts}


@torch.no_grad()
def probabilities(classifier: Classifier, features: Float[torch.Tensor, "N D"]) -> np.ndarray:
    """float64 [N, K] that sum to 1."""
    device = next(classifier.head.parameters()).device
    return classifier.head(features.to(device)).double().softmax(dim=1).cpu().numpy()


def _join(out: Path, parts: Parts, source: Source, names: Sequence[str]) -> dict[str, int]:
    counts = dict.fromkeys(names, 0)

    def rows() -> Iterator[tuple[list[str], np.ndarray]]:
        for place in sorted(parts.folder.glob(f"*{parts.ending}")):
            with np.load(place) as part:
                chances, indices = part["chances"], part["indices"]
            if len(indices):
                yield [source.name(int(index)) for index in indices], chances

    def count(best: np.ndarray) -> None:
        for name, images in zip(names, np.bincount(best, minlength=len(names)).tolist(), strict=True):
            counts[name] += images

    write = _write_csv if out.suffix == ".csv" else _write_parquet

    def written(path: Path) -> None:
        write(path, rows(), names, count)
        if not any(counts.values()):
            raise WrongRequest("none of the images can be read: `otherview doctor` says why")

    atomically(out, written)
    return counts


def _write_csv(path: Path, rows: Iterator[tuple[list[str], np.ndarray]], names: Sequence[str], count: Any) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "probability", *(f"p({name})" for name in names)])
        for images, chances in rows:
            best = chances.argmax(axis=1)
            count(best)
            for image, kind, row in zip(images, best.tolist(), chances.tolist(), strict=True):
                writer.writerow([image, names[kind], f"{row[kind]:.6f}", *(f"{value:.6f}" for value in row)])


def _write_parquet(path: Path, rows: Iterator[tuple[list[str], np.ndarray]], names: Sequence[str], count: Any) -> None:
    schema = pa.schema([
        ("path", pa.string()), ("label", pa.string()), ("probability", pa.float64()),
        *((f"p({name})", pa.float64()) for name in names),
    ])  # fmt: skip
    with pq.ParquetWriter(path, schema) as writer:
        for images, chances in rows:
            best = chances.argmax(axis=1)
            count(best)
            label = [names[kind] for kind in best.tolist()]
            columns = [images, label, chances.max(axis=1), *chances.T]
            writer.write_table(pa.Table.from_arrays([pa.array(one) for one in columns], schema=schema))
