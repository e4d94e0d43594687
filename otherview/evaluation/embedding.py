"""Features of many images as a file: parquet, npy or safetensors, written part by part so that a stopped run continues.

FILE.parts/ holds what is there so far; it goes when the file is whole.

Axes: N images, L patches, D width.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file

from otherview.data.first_images import settled
from otherview.data.image import Preprocessing
from otherview.data.source import Selected, Source, first_of
from otherview.data.spec import absolute, open_aloud
from otherview.errors import WrongRequest
from otherview.evaluation.features import FeatureSpec, extract_all
from otherview.evaluation.parts import Parts
from otherview.evaluation.split import SHORTENED_IMAGES
from otherview.evaluation.token_settings import EmbedSettings
from otherview.evaluation.whole_images import as_asked
from otherview.files import atomically, check_written, write_atomically
from otherview.launch import launched_ranks, shortened
from otherview.nn.encoder import Encoder
from otherview.signature import takes
from otherview.training.console import RunProgress
from otherview.training.device import compute_on
from otherview.weights.names import check_weights, load_encoder
from otherview.weights.pretrained import weights_fingerprint

Kind = Literal["cls", "mean", "patches"]
ENDINGS = (".parquet", ".npy", ".safetensors")
PART, PART_BYTES = 1000, 2**28
"""Images a part at most, and its bytes."""
LARGEST_IN_MEMORY = 4 * 2**30
"""Bytes that a safetensors file may have, since it is made in memory."""
NAMES = ".names.json"
"""Beside an npy file: the images' names."""


@dataclass(frozen=True)
class Embedding:
    """Which features go where; `about` decides whether parts that are there already belong to it."""

    path: Path
    kind: Kind
    about: Mapping[str, Any]


def write_features(
    encoder: Encoder,
    source: Source,
    preprocessing: Preprocessing,
    wanted: Embedding,
    *,
    workers: int,
    advance: Callable[[int], None],
) -> int:
    """Compute what is missing, then write the file; returns how many images it has. Those that cannot be read are left out."""
    spec = FeatureSpec(patch_size=encoder.settings.patch_size if wanted.kind == "patches" else None)
    count = part_of(encoder, preprocessing, wanted.kind, images=len(source), path=wanted.path)
    parts = Parts(path=wanted.path, about=wanted.about, images=len(source), size=count)
    parts.open()
    for start, indices, there in parts.all():
        if not there:
            found = extract_all({"it": encoder}, source, preprocessing, indices=indices, workers=workers, spec=spec)[
                "it"
            ]
            rows = {"features": found.tokens[wanted.kind].numpy(), "indices": indices[found.kept.numpy()]}
            atomically(parts.place(start), lambda path, rows=rows: save_rows(path, rows))
        advance(len(indices))
    written = _join(wanted, parts, source)
    parts.close()
    return written


def part_of(encoder: Encoder, preprocessing: Preprocessing, kind: Kind, *, images: int, path: Path) -> int:
    """How many images make a part; raises WrongRequest where a safetensors file would not fit into memory."""
    patches = (preprocessing.size[0] // encoder.settings.patch_size) * (
        preprocessing.size[1] // encoder.settings.patch_size
    )
    row = 4 * encoder.settings.width * (patches if kind == "patches" else 1)
    if path.suffix == ".safetensors" and row * images > LARGEST_IN_MEMORY:
        raise WrongRequest(
            f"{path} would take {row * images / 2**30:.0f} GB and is made in memory: write *.npy or *.parquet"
        )
    return max(1, min(PART, PART_BYTES // row))


def save_rows(path: Path, rows: Mapping[str, np.ndarray]) -> None:
    """Arrays as an npz file, whatever the name of the path."""
    with path.open("wb") as file:
        np.savez(file, **rows)  # pyright: ignore[reportArgumentType]


def _join(wanted: Embedding, parts: Parts, source: Source) -> int:
    places = sorted(parts.folder.glob("*.npz"))
    indices = np.concatenate([np.load(place)["indices"] for place in places])
    if not len(indices):
        raise WrongRequest("none of the images can be read: `otherview doctor` says why")
    names = [source.name(int(index)) for index in indices]
    rows = (np.load(place)["features"] for place in places)
    writers = {".parquet": _write_parquet, ".npy": _write_npy, ".safetensors": _write_safetensors}
    atomically(wanted.path, lambda path: writers[wanted.path.suffix](path, rows, names, wanted))
    if wanted.path.suffix == ".npy":
        write_atomically(wanted.path.with_suffix(NAMES), json.dumps(names).encode())
    return len(names)


def _write_parquet(path: Path, parts: Any, names: Sequence[str], wanted: Embedding) -> None:
    """Columns name and the kind of token, a list of numbers an image; of patches, one patch after another."""
    start, writer = 0, None
    try:
        for rows in parts:
            if not len(rows):
                continue
            flat = rows.reshape(len(rows), -1)
            column = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
            table = pa.table({"name": names[start : start + len(rows)], wanted.kind: column})
            shape = json.dumps({**wanted.about, "shape": list(rows.shape[1:])})
            table = table.replace_schema_metadata({"otherview": shape})
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            start += len(rows)
    finally:
        if writer is not None:
            writer.close()


def _write_npy(path: Path, parts: Any, names: Sequence[str], wanted: Embedding) -> None:
    start, whole = 0, None
    for rows in parts:
        if whole is None:
            whole = np.lib.format.open_memmap(path, "w+", np.float32, (len(names), *rows.shape[1:]))
        whole[start : start + len(rows)] = rows
        start += len(rows)
    assert whole is not None
    whole.flush()


def _write_safetensors(path: Path, parts: Any, names: Sequence[str], wanted: Embedding) -> None:
    whole = torch.from_numpy(np.concatenate(list(parts)))
    save_file(
        {wanted.kind: whole}, path, metadata={"names": json.dumps(names), "otherview": json.dumps(dict(wanted.about))}
    )


def read_embedding(path: Path) -> tuple[list[str], Float[torch.Tensor, "N *L D"]]:
    """Names and features of such a file; raises WrongRequest for what is none."""
    try:
        match path.suffix:
            case ".parquet":
                table = pq.read_table(path)
                kind = table.column_names[1]
                shape = json.loads(table.schema.metadata[b"otherview"])["shape"]
                flat = table[kind].combine_chunks().flatten().to_numpy()
                return table["name"].to_pylist(), torch.from_numpy(flat.reshape(-1, *shape).copy())
            case ".npy":
                names = json.loads(path.with_suffix(NAMES).read_text(encoding="utf-8"))
                return names, torch.from_numpy(np.load(path, allow_pickle=False))
            case ".safetensors":
                with safe_open(path, framework="pt") as file:
                    return json.loads(file.metadata()["names"]), file.get_tensor(next(iter(file.keys())))
    except Exception as error:
        raise WrongRequest(f"{path} is no file of `otherview embed`: {str(error).splitlines()[0]}") from error
    raise WrongRequest(f"{path} must end in {', '.join(ENDINGS)}: give a file of `otherview embed`")


@takes(EmbedSettings)
def embed(settings: EmbedSettings) -> dict[str, Any]:
    """Write the features of every image to a file; returns where it is and what is in it. Continues what was stopped."""
    began = time.monotonic()
    if settings.out.suffix not in ENDINGS:
        raise WrongRequest(f"--out {settings.out} must end in {', '.join(ENDINGS)}")
    check_weights(settings.weights)
    source = open_aloud(settings.data)
    check_written(settings.out, flag="--out")
    if launched_ranks() > 1:
        raise WrongRequest("otherview embed is one process: start it without torchrun or srun")
    device = compute_on(settings)
    loaded = load_encoder(settings.weights)
    asked = as_asked(loaded.card.preprocessing, settings, patch_size=loaded.card.encoder.patch_size)
    if shortened():
        source = Selected(source, first_of(source, SHORTENED_IMAGES))
    about = {
        "weights": weights_fingerprint(loaded.encoder), "data": absolute(settings.data), "images": len(source),
        "tokens": settings.tokens, **asked.about,
    }  # fmt: skip
    preprocessing = settled(source, asked, flag="--data", fixed=True)
    wanted = Embedding(settings.out, settings.tokens, about)
    with RunProgress(total=len(source), title="features") as progress:
        count = write_features(
            loaded.encoder.to(device), source, preprocessing, wanted, workers=settings.workers, advance=progress.advance
        )
    return {
        "out": str(settings.out), "images": count, "left_out": len(source) - count, "tokens": settings.tokens,
        **asked.about, "width": loaded.card.encoder.width, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
