"""What detection and segmentation choose by the training images and the encoder, and what they leave alone."""

import pytest
from pydantic import BaseModel

from otherview.__main__ import COMMANDS, only_given, parse
from otherview.dense.dense_defaults import (
    MANY,
    Known,
    filled,
    global_blocks_for,
    in_words,
    settled_detection,
    settled_segmentation,
    square,
    steps_for,
    taps_for,
)
from otherview.dense.settings import BoxSettings, DetectConfig, SegmentConfig
from otherview.nn.settings import EncoderSettings
from otherview.recipes.dense import detect_cpu, segment_cpu, upernet_b_ade20k, vitdet_b_coco
from otherview.recipes.siamese_im import siamese_im_cpu_adamw
from otherview.training.settings import TrainingSettings

BASE, PICO = EncoderSettings(), siamese_im_cpu_adamw().encoder
SETTLED = {"detect": settled_detection, "segment": settled_segmentation}
BARE = {"detect": DetectConfig(), "segment": SegmentConfig()}


def test_as_many_images_as_published_get_the_published_settings() -> None:
    detection = settled_detection(DetectConfig(), Known(MANY, (1024, 1024), BASE))
    assert detection == vitdet_b_coco().model_copy(update={"recipe": ""})
    segmentation = settled_segmentation(SegmentConfig(), Known(MANY, (512, 683), BASE))
    assert segmentation == upernet_b_ade20k().model_copy(update={"recipe": "", "zero_is_ignored": False})


@pytest.mark.parametrize("recipe", [vitdet_b_coco, detect_cpu])
def test_a_recipe_stays_as_it_is(recipe: type[DetectConfig]) -> None:
    asked = recipe().model_copy(update={"steps": 7})
    assert settled_detection(asked, Known(10, (64, 64), PICO)) is asked


@pytest.mark.parametrize("verb", SETTLED)
@pytest.mark.parametrize(
    "encoder", [PICO, BASE, EncoderSettings(width=1024, depth=24, heads=16), PICO.model_copy(update={"depth": 2})]
)
@pytest.mark.parametrize("sides", [(1, 1), (60, 60), (375, 500), (3000, 4000)])
@pytest.mark.parametrize("images", [1, 90, 3_000, MANY])
@pytest.mark.parametrize("unit", [1, 6])
def test_what_is_chosen_fits_the_encoder(
    verb: str, encoder: EncoderSettings, sides: tuple[int, int], images: int, unit: int
) -> None:
    known = Known(images, sides, encoder, unit)
    config = SETTLED[verb](BARE[verb], known)
    config.check(patch_size=encoder.patch_size, depth=encoder.depth)
    assert type(config).model_validate(config.model_dump()) == config
    assert images >= MANY or (config.batch % unit == 0 and config.warmup_steps < config.steps)
    assert f"{config.steps:,} steps of {config.batch}" in in_words(config, known) and "--recipe" in in_words(
        config, known
    )


def test_what_was_asked_for_is_kept_and_the_rest_follows_it() -> None:
    known = Known(300, (64, 64), PICO)
    chosen = settled_detection(DetectConfig(), known)
    asked = DetectConfig(
        batch=32, size=128, boxes=BoxSettings(hidden=64), training=TrainingSettings(lr_per_256=0.5, workers=0)
    )
    config = settled_detection(asked, known)
    assert (config.batch, config.size, config.boxes.hidden) == (32, 128, 64)
    assert (config.training.lr_per_256, config.training.workers) == (0.5, 0)
    assert (
        config.training.weight_decay == chosen.training.weight_decay and config.boxes.channels == chosen.boxes.channels
    )
    assert config.steps * 32 == pytest.approx(chosen.steps * 8, rel=0.02)
    assert config.boxes.proposals > chosen.boxes.proposals  # of a larger square
    larger = settled_detection(DetectConfig(batch=32), known).training
    assert larger.lr_per_256 * 32 == pytest.approx(2 * chosen.training.lr_per_256 * 8, rel=0.02)  # the root of four


def test_small_photos_are_seen_whole_and_large_ones_at_the_published_number_of_patches() -> None:
    assert [square(side, unit=64, most=1024) for side in (1, 90, 500, 640, 4000)] == [64, 64, 512, 640, 1024]
    photos = settled_detection(DetectConfig(), Known(300, (480, 640), BASE))
    assert photos.windows.global_blocks == (2, 5, 8, 11) and photos.windows.window == 14
    assert settled_detection(DetectConfig(), Known(300, (300, 400), BASE)).windows.window == 0
    large = settled_segmentation(SegmentConfig(), Known(300, (3000, 4000), PICO))
    assert (large.size, large.longest) == (32 * PICO.patch_size, 4 * 32 * PICO.patch_size)


def test_depths() -> None:
    assert [global_blocks_for(depth) for depth in (1, 4, 6, 24)] == [(0,), (3,), (2, 5), (5, 11, 17, 23)]
    assert [taps_for(depth) for depth in (4, 12, 24)] == [(1, 2, 3, 4), (4, 6, 8, 12), (8, 12, 16, 24)]


def test_more_images_get_more_steps_and_fewer_epochs() -> None:
    counts = [3, 30, 90, 300, 1_000, 10_000, MANY - 1]
    steps = [steps_for(images, batch=8) for images in counts]
    epochs = [8 * done / images for done, images in zip(steps, counts, strict=True)]
    assert steps == sorted(steps) and epochs == sorted(epochs, reverse=True) and epochs[-1] > 1


def test_flags_count_as_asked_for_and_defaults_do_not() -> None:
    flags = ["--batch", "64", "--windows.no-relative-positions", "--training.lr-per-256=0.1"]
    config = only_given(DetectConfig(), flags)
    assert config.model_fields_set == {"batch", "windows", "training"}
    assert isinstance(config, DetectConfig) and config.training.model_fields_set == {"lr_per_256"}
    assert config.windows.model_fields_set == {"relative_positions"}


def _parsed(*flags: str) -> BaseModel:
    needed = ["--weights", "w", "--train", "a", "--test", "b", "--out", "o"]
    return parse(COMMANDS["evaluate segment"], [*needed, *flags]).config


def test_the_command_line_says_which_settings_were_given() -> None:
    bare = _parsed("--stride", "99", "--dropout", "0.1")
    assert bare.model_fields_set == {"stride", "dropout"} and filled(segment_cpu(), bare).model_dump() == {
        **segment_cpu().model_dump(), "stride": 99, "dropout": 0.1
    }  # fmt: skip
    assert _parsed("--recipe", "segment_cpu", "--stride", "9") == segment_cpu().model_copy(update={"stride": 9})
