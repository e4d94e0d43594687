"""Patch retrieval: a naive loop, tokens that know everything or nothing, and the verb."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from otherview.data.image import Preprocessing
from otherview.data.spec import open_source
from otherview.evaluation.features import FeatureSpec
from otherview.evaluation.retrieval import found_places, pairs, retrieve, share_found, without_position
from otherview.geometry import Crop, PatchGrid
from otherview.views.view import ViewPair

GRID, LOOK = PatchGrid(4, 6), Preprocessing((32, 48), (0.5,) * 3, (0.25,) * 3)


def some_pairs(count: int = 40) -> list[ViewPair]:
    return list(pairs(open_source(f"shapes:{count}@48"), torch.arange(count).numpy(), LOOK, GRID, seed=3, workers=0))


def centres(crop: Crop, image: int) -> list[tuple[float, float]]:
    """Where the patches of a view lie in the source, by hand."""
    top, left, height, width, flipped = (torch.as_tensor(side)[image].item() for side in crop[:5])
    found = []
    for row in range(GRID.rows):
        for column in range(GRID.columns):
            across = (column + 0.5) / GRID.columns
            found.append((top + height * (row + 0.5) / GRID.rows, left + width * (1 - across if flipped else across)))
    return found


def test_found_places_are_those_of_a_loop_in_source_pixels() -> None:
    (pair,) = some_pairs()
    rng = torch.Generator().manual_seed(0)
    seen, other = torch.randn(2, 40, GRID.patches, 5, generator=rng)
    found, shown = found_places(seen, other, (pair.online.crop, pair.target.crop), GRID)
    assert 0 < found.sum() < shown.sum() < shown.numel()
    for image in range(40):
        top, left, height, width, _ = (torch.as_tensor(side)[image].item() for side in pair.online.crop[:5])
        places = centres(pair.online.crop, image)
        for patch, (y, x) in enumerate(centres(pair.target.crop, image)):
            within = top < y < top + height and left < x < left + width
            assert shown[image, patch] == within
            nearest = torch.cosine_similarity(other[image, patch][None], seen[image]).argmax()
            down, across = (
                (places[nearest][0] - y) * GRID.rows / height,
                (places[nearest][1] - x) * GRID.columns / width,
            )
            farther = max(abs(down), abs(across))
            if abs(farther - 1) > 1e-6:  # views of the same size meet at whole patches: rounding decides
                assert found[image, patch] == (within and farther < 1)


def test_tokens_that_know_their_place_find_it_and_blind_ones_do_not() -> None:
    (pair,) = some_pairs()

    def place_tokens(crop: Crop) -> Tensor:
        """Bumps over the source: near in the picture is near in cosine."""
        spots = torch.cartesian_prod(torch.arange(0, 48, 3.0), torch.arange(0, 48, 3.0))
        points = torch.tensor([centres(crop, image) for image in range(40)])
        return (-(torch.cdist(points, spots[None]) ** 2) / 18).exp()

    crops = pair.online.crop, pair.target.crop
    knowing, _, n = share_found(*found_places(place_tokens(crops[0]), place_tokens(crops[1]), crops, GRID))
    assert knowing > 0.97 and n >= 35
    blind = torch.randn(2, 40, GRID.patches, 64, generator=torch.Generator().manual_seed(1))
    chance, spread, _ = share_found(*found_places(blind[0], blind[1], crops, GRID))
    assert chance < 4 / GRID.patches + 3 * spread


def test_what_all_images_have_at_a_position_counts_for_nothing() -> None:
    tokens = torch.randn(10, 6, 3, generator=torch.Generator().manual_seed(0))
    positions = 100 * torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(without_position(tokens + positions), without_position(tokens), atol=1e-4, rtol=0)


def test_views_are_plain_and_the_same_for_any_number_of_workers() -> None:
    source, indices = open_source("shapes:9@48"), torch.arange(9).numpy()
    one, two = (next(pairs(source, indices, LOOK, GRID, seed=0, workers=count)) for count in (0, 2))
    assert torch.equal(one.online.pixels, two.online.pixels) and torch.equal(one.target.pixels, two.target.pixels)
    assert not one.online.masked.any() and (one.online.crop.height != one.target.crop.height).any()  # pyright: ignore
    assert retrieve({"pixels": None}, iter([one]), LOOK, grid=GRID, spec=FeatureSpec(8))["pixels"][1].shape == (9, 24)


def test_a_broken_image_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = open_source("shapes:3@48")
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(source.read(index))
    (tmp_path / "1.png").write_bytes(b"no picture")
    (pair,) = pairs(open_source(str(tmp_path)), torch.arange(3).numpy(), LOOK, GRID, seed=0, workers=0)
    assert len(pair.online.pixels) == len(torch.as_tensor(pair.target.crop.top)) == 2
    assert "1.png" in capsys.readouterr().err


@pytest.mark.slow
def test_the_verb_needs_no_labels(tmp_path: Path, otherview: Callable) -> None:
    words = [
        "evaluate",
        "retrieval",
        "--weights",
        "random:siamese_im_cpu_adamw",
        "--test",
        "shapes:60",
        "--out",
        tmp_path,
    ]
    done = otherview(*words, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    names = [score["name"] for score in (*result["scores"], *result["control"])]
    assert names == ["retrieval_encoder", "retrieval_untrained", "retrieval_pixels"]
    assert result["scores"][0]["value"] == result["control"][0]["value"] > 4 / 64
    assert json.loads((tmp_path / "results.jsonl").read_text())["test"] == "shapes:60"
    refused = otherview(*words, "--test-images", "1")
    assert refused.returncode == 2 and "give 2 or more" in refused.stderr
