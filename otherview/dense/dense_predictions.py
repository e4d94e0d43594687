"""What a fitted detector or segmenter says of new images: a folder with COCO's JSON, or a picture of classes for each image.

Images need no annotations. What is there already of the same request is not made again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from otherview.data.first_images import settled
from otherview.data.objects import mask_tools
from otherview.data.source import Source
from otherview.dense.fitted import load_detector, load_segmenter
from otherview.dense.inference import Detection, ReadImage, detections, picture_name, predictions
from otherview.distributed import computed_by_first, from_first, on_first, rank
from otherview.evaluation.parts import NewImages, Parts, identity_of
from otherview.files import write_atomically
from otherview.launch import launched_rank
from otherview.report.predictions import draw_found, draw_pixels
from otherview.training.console import RunProgress
from otherview.weights.pretrained import weights_fingerprint

PART = 64
"""Images between two writes of detections."""
LARGEST_SHOWN = 800
"""Side in pixels at which images are drawn beside their classes."""


def predict_boxes(model: Path, new: NewImages) -> dict[str, Any]:
    """predictions.json in COCO's form, and some pictures."""
    source, out = new.source, new.out
    mask_tools()
    fitted = load_detector(model)
    fitted.detector.to(new.device)
    preprocessing = settled(source, fitted.card.preprocessing, flag="--data", fixed=True)
    known = {**new.about, "weights": weights_fingerprint(fitted.detector)}
    parts = Parts(path=out / "predictions.json", about=known, images=len(source), size=PART, ending=".json")
    parts.open()
    ids = [kind.id for kind in fitted.categories]
    with RunProgress(total=len(source), title="boxes", speak=launched_rank() == 0) as progress:
        for start, indices, there in parts.all():
            if there:
                progress.advance(len(indices))
                continue
            found, read = detections(
                fitted.detector, source, indices, preprocessing, side=fitted.config.size, category_ids=ids, workers=new.workers,
                advance=progress.advance, annotated=False,
            )  # fmt: skip
            if rank() == 0:
                write_atomically(parts.place(start), json.dumps({"found": found, "read": read}).encode())

    def joined() -> dict[str, Any]:
        loaded = [json.loads(place.read_text()) for place in sorted(parts.folder.glob("[0-9]*.json"))]
        found = [one for part in loaded for one in part["found"]]
        read = [ReadImage(*one) for part in loaded for one in part["read"]]
        names = {kind.id: kind.name for kind in fitted.categories}
        write_atomically(out / "predictions.json", json.dumps(_coco(source, found, read, names)).encode())
        for image in read[: new.pictures]:
            figure = draw_found(source, image.place, [one for one in found if one["image_id"] == image.id], names)
            (out / "pictures").mkdir(exist_ok=True)
            figure.savefig(out / "pictures" / picture_name(image.place, source.name(image.place)), dpi=110)
        return {"images": len(read), "detections": len(found)}

    said = computed_by_first(joined)
    parts.close()
    return said


def _coco(
    source: Source, found: Sequence[Detection], read: Sequence[ReadImage], names: Mapping[int, str]
) -> dict[str, Any]:
    """Images, categories and annotations with a score: what other programs read as a data set."""
    tools = mask_tools()
    images = [
        {"id": one.id, "file_name": source.name(one.place), "height": one.height, "width": one.width} for one in read
    ]
    annotations = [
        {**one, "id": number, "iscrowd": 0, "area": float(tools.area(one["segmentation"]))}
        for number, one in enumerate(found, start=1)
    ]
    categories = [{"id": kind, "name": name} for kind, name in names.items()]
    return {"images": images, "categories": categories, "annotations": annotations}


def predict_pixels(model: Path, new: NewImages) -> dict[str, Any]:
    """A PNG for every image, whose levels are classes; classes.json names them; some pictures beside the images."""
    source, out = new.source, new.out
    fitted = load_segmenter(model)
    net = fitted.net.to(new.device)
    preprocessing = settled(source, fitted.card.preprocessing, flag="--data", fixed=True)
    known = {**new.about, "weights": weights_fingerprint(net)}
    folder = out / "classes"
    _check_same(out, known)
    wanted = [folder / picture_name(index, source.name(index)) for index in range(len(source))]
    missing = [index for index, place in enumerate(wanted) if not place.exists()]
    left = np.array(from_first(missing), np.int64)  # ranks may have looked at different moments
    drawn = []
    with RunProgress(total=len(source), title="pixels", speak=launched_rank() == 0) as progress:
        progress.advance(len(source) - len(left))
        for one in predictions(net, source, left, preprocessing, fitted.config, workers=new.workers, annotated=False):
            progress.advance(1)
            if one is None:
                continue
            one.save(folder)
            if len(drawn) < new.pictures:
                every = max(1, max(one.predicted.shape) // LARGEST_SHOWN)
                drawn.append((one.name, one.pixels[::every, ::every], one.predicted[::every, ::every]))
    everyone = on_first(drawn) or []

    def joined() -> dict[str, Any]:
        write_atomically(out / "classes.json", json.dumps(dict(enumerate(fitted.names)), indent=1).encode())
        some = [one for part in everyone for one in part][: new.pictures]
        if some:
            draw_pixels([(*one[:2], None, one[2]) for one in some], fitted.names).savefig(out / "pictures.png", dpi=110)
        write_atomically(out / "about.json", identity_of({**known, "finished": True}).encode())
        return {"images": sum(place.exists() for place in wanted)}

    return computed_by_first(joined)


def _check_same(out: Path, about: Mapping[str, Any]) -> None:
    """Pictures of another request, and of this one where it had been finished, are removed: their images may have changed."""
    if launched_rank() > 0:
        return
    identity, said = out / "about.json", identity_of(about)
    if identity.exists() and identity.read_text(encoding="utf-8") != said:
        for picture in (out / "classes").glob("[0-9]" * 7 + "-*.png"):
            picture.unlink()
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(identity, said.encode())
