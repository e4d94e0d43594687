"""What the documentation says to type: every command parses, those of the README and of what a newcomer reads are run."""

import io
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from timm.models.vision_transformer import VisionTransformer
from transformers import ViTConfig, ViTModel

from otherview.__main__ import COMMANDS, find_command, parse
from otherview.data.picture import picture_of
from otherview.data.spec import open_source
from otherview.recipes.studies import find_study
from tests.official import cases, official
from tests.test_dicom import RAMP, scan
from tests.test_sources import shard, written

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_HERE = ("torchrun", "srun", "docker", "cuda", "pip", "make", "timm:", "imagenet/", "imagenet-")
"""What wants several devices, the network or ImageNet."""


def commands(page: Path) -> list[str]:
    """Indented lines that begin with `otherview` or a launcher of it, continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [
        line.strip()
        for line in text.splitlines()
        if re.match(r" {4,}(\S+=\S+ |torchrun |srun |OMP)*.*\botherview ", line) and "docker build" not in line
    ]


def words_of(command: str) -> list[str]:
    """The words after `otherview`, without a comment at the end or dots that stand for more."""
    bare = command.split("  #")[0].replace("…", " ").replace("...", " ")
    words = shlex.split(bare)
    place = words.index("otherview")
    return words[place + 1 :]


def every_command() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for command in commands(page):
            yield page.name, command


RUN = sorted({page for page, _ in every_command()} - {"scale.md", "gpu.md"})
"""Whose commands are run, shortened; those of two pages want other devices."""


@pytest.mark.parametrize(("page", "command"), list(every_command()))
def test_every_command_parses(page: str, command: str) -> None:
    found, flags = find_command(words_of(command))
    required = {"--data": "x", "--out": "x", "--weights": "x", "--train": "x", "--test": "x"}
    if "…" in command or "..." in command:  # the page leaves something out
        fields = {f"--{name.replace('_', '-')}" for name in found.settings.__dataclass_fields__}
        flags = flags + [
            word for flag, value in required.items() if flag in fields and flag not in flags for word in (flag, value)
        ]
    settings = parse(found, flags)
    if rows := getattr(settings, "rows", ()):  # not every study of a page is run below
        assert set(rows) <= set(find_study(settings.study).rows())


def test_commands_are_found() -> None:
    assert len(list(every_command())) > 45
    assert words_of("torchrun --nproc-per-node 8 -m otherview pretrain --data x  # why") == ["pretrain", "--data", "x"]


def test_every_command_is_documented() -> None:
    written = " ".join(command for _, command in every_command())
    assert [name for name in COMMANDS if f"otherview {name}" not in written] == []


def test_the_road_enters_no_room_twice() -> None:
    tables = (ROOT / "docs/road.md").read_text(encoding="utf-8").split("\n## ")[1:]
    assert len(tables) == 2
    for table in tables:
        rooms = [room for room, _ in itertools.groupby(re.findall(r"\(api/\w+\.md#otherview\.(\w+)\.", table))]
        assert len(rooms) == len(set(rooms)) > 1, rooms


@pytest.fixture
def newcomer(tmp_path: Path) -> Path:
    """A folder with what the pages speak of: photos, labelled ones, datasets under their names, a checkpoint from elsewhere."""
    source = open_source("shapes:280@48")
    shown: dict[str, list[tuple[bytes, int]]] = {"train": [], "test": []}
    for index in range(len(source)):
        content = io.BytesIO()
        Image.fromarray(picture_of(source, index).decode()).save(content, "PNG")
        shown["train" if index % 2 else "test"].append((content.getvalue(), int(source.label(index) or 0)))
    for side, images in shown.items():
        for index, (content, label) in enumerate(images):
            written(tmp_path / f"labelled/{side}/class{label}/{index}.png", content)
            written(tmp_path / f"photos/{side}{index}.png", content)
        rows = [{"image": {"bytes": content, "path": None}, "label": label} for content, label in images]
        (tmp_path / "cifar10").mkdir(exist_ok=True)
        parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / f"cifar10/{side}.parquet")
        members = {f"{index}.png": content for index, (content, _) in enumerate(images)}
        members |= {f"{index}.cls": str(label).encode() for index, (_, label) in enumerate(images)}
        shard(tmp_path / f"imagenette128/{'val' if side == 'test' else side}-000.tar", members)
    objects(tmp_path, [content for content, _ in shown["train"][:8]])
    (tmp_path / "arrays").mkdir()
    for index in range(3):
        np.save(tmp_path / f"arrays/{index}.npy", np.full((5, 24, 24), 1000 * index, np.uint16))
    laboratory(tmp_path)
    vit = VisionTransformer(img_size=64, patch_size=16, embed_dim=192, depth=1, num_heads=3, num_classes=0)
    torch.save({"model": vit.state_dict()}, tmp_path / "mae_pretrain_vit_base.pth")
    torch.save(
        {"teacher": {f"backbone.{name}": value for name, value in vit.state_dict().items()}},
        tmp_path / "dino_checkpoint.pth",
    )
    sizes = {"hidden_size": 192, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 768}
    ViTModel(ViTConfig(**sizes, image_size=64, patch_size=16)).save_pretrained(tmp_path / "vit-mae-folder")
    for kind, name in (("siamese_im", "checkpoint.pth"), ("moco_v3", "vit-b-300ep.pth.tar")):
        torch.save(official(cases(kind)[0], kind)[0], tmp_path / name)
    return tmp_path


def laboratory(folder: Path) -> None:
    """Scans, slides of two classes and four patients each, and a list of labelled photos with a patient for each."""
    for index in range(4):
        written(folder / f"scans/{index}.dcm", scan((RAMP + 100 * index).astype(np.int16)))
    for index in range(16):
        pixels = np.random.default_rng(index).integers(0, 256, (520, 520), np.uint8)
        path = folder / f"slides/{'ab'[index % 2]}/{index // 2 % 4}/{index}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    rows = [
        f"{path.relative_to(folder)},{path.parent.name},{place % 5}"
        for kind in range(2)
        for place, path in enumerate(sorted((folder / f"labelled/train/class{kind}").glob("*.png")))
    ]
    table = ["path,age,diagnosis", *(row.replace(",class", ",9,kind").rpartition(",")[0] for row in rows), ""]
    (folder / "isic.csv").write_text("\n".join(table))
    content = [{"bytes": path.read_bytes(), "path": None} for path in sorted((folder / "photos").glob("*.png"))]
    (folder / "cifar100").mkdir()
    columns = {"img": content, "fine_label": [0] * len(content), "coarse_label": [1] * len(content)}
    parquet.write_table(arrow.table(columns), folder / "cifar100/train-0.parquet")
    (folder / "scans.csv").write_text("\n".join(["path,label,patient", *rows, ""]))


def added(words: list[str]) -> list[str]:
    """What the small stand-ins of this folder need besides: heads that no width tells, a batch, a study that are quick.

    Of a study two rows, with larger images one: test_compare.py looks at all rows, test_methods.py walks their parts.
    """
    if words[0] == "compare" and "--study" in words:
        rows = find_study(words[words.index("--study") + 1]).rows()
        return ["--seeds", "1", "--measures", "knn", "--rows", *list(rows)[: 1 if "--size" in words else 2]]
    for kind in ("siamese_im", "moco_v3"):
        if words[0] == "convert" and kind.replace("_", "-") in words[2]:
            return ["--heads", str(official(cases(kind)[0], kind)[1])]
    return []


def objects(folder: Path, images: list[bytes]) -> None:
    """COCO annotations, one square in each image."""
    for index, content in enumerate(images):
        written(folder / f"train2017/{index}.png", content)
    square = {"category_id": 1, "bbox": [8, 8, 24, 24], "area": 576, "iscrowd": 0}
    square["segmentation"] = [[8, 8, 32, 8, 32, 32, 8, 32]]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 48, "width": 48} for n in range(len(images))],
        "annotations": [{"id": n + 1, "image_id": n, **square} for n in range(len(images))],
        "categories": [{"id": 1, "name": "square"}],
    }
    written(folder / "instances_train2017.json", json.dumps(content).encode())


def run_here(page: str) -> list[list[str]]:
    """The words of a page's commands in their order, without those that need several machines or downloads.

    What judges is run once for each verb and set of flags: other values are the same way through the program. Studies are run on
    the page about them, and with larger images; the longer benches in test_bench.py and test_cli.py.
    """
    path = next(one for one in PAGES if one.name == page)
    wanted = [words_of(command) for command in commands(path) if not any(word in command for word in NOT_HERE)]
    if page != "comparing.md":
        wanted = [words for words in wanted if "--study" not in words or "--size" in words]
    if page == "results.md":  # protocols are run on the pages about them, but for the one on boxes of a file
        wanted = [words for words in wanted if words[0] != "evaluate" or "coco:" in " ".join(words)]
    wanted = [words for words in wanted if words[:2] not in (["bench", "step"], ["bench", "loss"])]
    speaking = [words[0] for words in wanted if "runs/first" in words]
    if speaking and "pretrain" not in speaking:
        wanted.insert(0, words_of("otherview pretrain --data photos/ --out runs/first"))
    ways: dict[tuple[str, ...], list[str]] = {}
    for words in wanted:
        ways.setdefault(way_of(words), words)
    return list(ways.values())


def way_of(words: list[str]) -> tuple[str, ...]:
    """What two commands share that have to be run only once; test_compare.py looks at all rows of all studies."""
    if "--study" in words:
        return "compare", "--study", *(["--size"] if "--size" in words else [])
    if words[0] not in ("compare", "evaluate", "bench"):
        return tuple(words)
    return *words[: 1 if words[0] == "compare" else 2], *sorted(word for word in words if word.startswith("--"))


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run(page: str, newcomer: Path, otherview: Callable) -> None:
    for words in run_here(page):
        done = otherview(*words, *added(words), OTHERVIEW_SHORTEN="1", OMP_NUM_THREADS="1", timeout=900)
        assert done.returncode == 0, (words, done.stderr)
        assert done.stdout.strip(), words
        if "--out" in words and "--dry-run" not in words:  # which writes nothing
            assert (newcomer / words[words.index("--out") + 1]).exists(), words
        if words[0] == "evaluate":
            assert re.search(r"encoder\S* .*\d\.\d{4} ± \d", done.stdout), (words, done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(path: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 4
