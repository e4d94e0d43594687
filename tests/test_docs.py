"""What the documentation says to type: every command parses, those of the README and of what a newcomer reads are run."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from otherview.cli import VERBS, _parse, _verb
from otherview.data.picture import picture_of
from otherview.data.spec import open_source

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = "README.md", "index.md", "weights.md", "detection.md", "evaluating.md", "data.md", "training.md"
"""Whose commands are run, shortened."""
NOT_HERE = ("torchrun", "srun", "pip", "make", "timm:", "moco-v3", "official-siamese-im", "imagenet")


def commands(page: Path) -> list[str]:
    """Indented lines that begin with `otherview` or a launcher of it, continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [
        line.strip()
        for line in text.splitlines()
        if re.match(r" {4,}(\S+=\S+ |torchrun |srun |OMP)*.*\botherview ", line)
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


@pytest.mark.parametrize(("page", "command"), every_command())
def test_every_command_parses(page: str, command: str) -> None:
    verb, flags = _verb(words_of(command))
    import importlib

    module_name, request_name, _ = VERBS[verb]
    module = importlib.import_module(f"otherview.verbs.{module_name}")
    required = {"--data": "x", "--out": "x", "--weights": "x", "--train": "x", "--test": "x"}
    if "…" in command or "..." in command:  # the page leaves something out
        fields = {f"--{name.replace('_', '-')}" for name in getattr(module, request_name).__dataclass_fields__}
        flags = flags + [
            word for flag, value in required.items() if flag in fields and flag not in flags for word in (flag, value)
        ]
    assert _parse(getattr(module, request_name), verb, flags)


def test_commands_are_found() -> None:
    assert len(list(every_command())) > 45
    assert words_of("torchrun --nproc-per-node 8 -m otherview pretrain --data x  # why") == ["pretrain", "--data", "x"]


def test_every_verb_is_documented() -> None:
    written = " ".join(command for _, command in every_command())
    assert [verb for verb in VERBS if f"otherview {verb}" not in written] == []


@pytest.fixture
def newcomer(tmp_path: Path) -> Path:
    """A folder with what the pages speak of: photos, labelled ones, a checkpoint from elsewhere."""
    source = open_source("shapes:200@48")
    from PIL import Image

    for index in range(200):
        picture = Image.fromarray(picture_of(source, index).decode())
        places = [tmp_path / "photos" / f"{index}.png"] if index < 80 else []
        side = "train" if index % 2 else "test"
        places.append(tmp_path / "labelled" / side / f"class{source.label(index)}" / f"{index}.png")
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            picture.save(place)
    (tmp_path / "arrays").mkdir()
    for index in range(3):
        np.save(tmp_path / f"arrays/{index}.npy", np.full((5, 24, 24), 1000 * index, np.uint16))
    vit = VisionTransformer(img_size=64, patch_size=16, embed_dim=192, depth=1, num_heads=3, num_classes=0)
    torch.save({"model": vit.state_dict()}, tmp_path / "mae_pretrain_vit_base.pth")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run(page: str, newcomer: Path, otherview: Callable) -> None:
    path = next(one for one in PAGES if one.name == page)
    wanted = [command for command in commands(path) if not any(word in command for word in NOT_HERE)]
    assert wanted
    if not any("--out runs/first" in command for command in wanted) or "budget" in wanted[0]:
        wanted.insert(0, "otherview pretrain --recipe siamese_im_pico_32 --data photos/ --out runs/first")
    ran = set()
    for command in wanted:
        words = words_of(command)
        if command in ran or "demo" in words[:1]:
            continue
        ran.add(command)
        if "--image-size" in " ".join(words) or "--time-budget" in words:  # other settings, another folder
            words = [word.replace("runs/first", "runs/other") for word in words]
        done = otherview(*words, OTHERVIEW_SHORTEN="1", OMP_NUM_THREADS="1")
        assert done.returncode == 0, (command, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(path: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 4
