"""Encoders that come from elsewhere: every tensor is accounted for, sizes are read off the tensors.

    found = converted(read_file(path), ORIGINS["mae"], branch="online", heads=None)
    save_encoder(out, found.encoder, found.card)

Names: our specification 1.10 and the names in official checkpoints; what an encoder has is called as timm calls it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from otherview.errors import WrongRequest
from otherview.geometry import PatchGrid
from otherview.nn.encoder import Encoder
from otherview.nn.positions import halves_swapped, sincos_grid
from otherview.nn.settings import EncoderSettings
from otherview.weights.formats import table_of
from otherview.weights.pretrained import Card
from otherview.weights.state_dicts import ANCHOR, Branch, Weights, parts_of, prefix_of, weights_in

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""By width, where a file does not say it; no state dict holds the number of heads."""
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
OF_ENCODER = re.compile(r"(cls_token|reg_token|pos_embed|patch_embed\.proj\.|blocks\.\d+\.|norm\.)")
NON_COMMERCIAL = "non-commercial use only (the licence of the official {} weights): ask their authors for anything else"
UNKNOWN_LICENCE = "unknown: ask where the file came from"
SINCOS_TOLERANCE = 1e-4


class Origin(NamedTuple):
    """How a kind of checkpoint names its tensors."""

    method: str
    prefixes: Mapping[str, str]
    """Of the encoder's tensors, by branch."""
    heads: str
    """Names that belong to pre-training or to a classifier: a pattern."""
    licence: str
    heads_by_width: Mapping[int, int] = HEADS


ORIGINS = {
    "official-siamese-im": Origin(
        "siamese_im",
        {"online": "", "target": "mm_"},
        r"(mm_)?(decoder_|projector_decoder_blocks|predictor_decoder_blocks|mask_token|student_norm)|fc_norm\.|head\.",
        NON_COMMERCIAL.format("SiameseIM"),
    ),
    "mae": Origin("mae", {"online": ""}, r"decoder_|mask_token|fc_norm\.|head\.", NON_COMMERCIAL.format("MAE")),
    "moco-v3": Origin(
        "moco_v3",
        {"online": "base_encoder.", "target": "momentum_encoder."},
        r"(base_encoder|momentum_encoder)\.head\.|predictor\.|head\.",
        NON_COMMERCIAL.format("MoCo-v3"),
        {**HEADS, 384: 12},
    ),
    "timm": Origin("timm", {"online": ""}, r"fc_norm\.|head\.|head_dist\.", UNKNOWN_LICENCE),
}
HEADS_OF_ANY = (
    r"(.*\.)?(decoder|mask_token|masked_embed|fc_norm|head|projector|projection|predictor|classifier|pooler|queue|"
    r"prototypes)"
)
"""How programs call what is not of the encoder."""
ESSENTIAL = re.compile(r"blocks\.|norm|.*(token|embed|bias_table)")
"""Names of tensors that an encoder cannot do without."""


class Converted(NamedTuple):
    """An encoder of ours and where every tensor of the source went."""

    encoder: Encoder
    card: Card
    loaded: list[str]
    left: dict[str, str]
    """Names that were not taken, and why."""
    container: str
    """The entry of the file that they were taken from."""
    state: dict[str, Tensor]
    """The encoder's tensors as the file has them, under timm's names."""


def recognised(weights: Weights, content: Mapping[str, Any]) -> Origin:
    """Whose file this is, by its names; an encoder anywhere in it is found by its patch embedding."""
    names = weights.tensors
    if "mm_cls_token" in names:
        return ORIGINS["official-siamese-im"]
    if "base_encoder." + ANCHOR in names:
        return ORIGINS["moco-v3"]
    prefix = prefix_of(names, branch=weights.branch)
    known = {
        "i-jepa": "target_encoder" in content,
        "dino": {"student", "teacher"} <= content.keys(),
        "mae": any("decoder_embed" in name or "decoder_pred" in name for name in names),
        "dinov2": prefix + "mask_token" in names and prefix + "blocks.0.ls1.gamma" in names,
    }
    method = next((name for name, fits in known.items() if fits), "unknown")
    return Origin(method, {weights.branch: prefix}, HEADS_OF_ANY, UNKNOWN_LICENCE)


def converted(
    content: Mapping[str, Any],
    origin: Origin | None,
    *,
    branch: Branch | None = None,
    heads: int | None = None,
    partial: bool = False,
    preprocessing: Mapping[str, Any] = IMAGENET,
    licence: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> Converted:
    """Raises WrongRequest for a tensor that has no place, one that is missing, or one of another shape.

    Without an origin, names tell it; without a branch, it is that which the method's authors judge. With `partial`, tensors
    that have no place are left with that reason, unless they are parts of an encoder.
    """
    weights = weights_in(content, branch=branch)
    state, arguments = weights.tensors, weights.arguments
    origin, branch = origin or recognised(weights, content), weights.branch
    if branch not in origin.prefixes:
        raise WrongRequest(f"--branch {branch}: such files hold {', '.join(origin.prefixes)} only")
    mine, left = _sorted(state, origin, branch)
    mine.setdefault("pos_embed", state.get("pos_embed", NO_TABLE))  # both branches have one and the same
    _check_left(left, state, partial=partial, prefix=origin.prefixes[branch])
    taken = dict(mine)
    if strange := next((name for name, value in mine.items() if not value.isfinite().all()), None):
        raise WrongRequest(f"weights of the file are not finite, {strange} first: the run that wrote it has failed")
    settings = _settings(mine, origin, heads=heads, arguments=arguments, image_size=image_size)
    mine, settings = _positions(mine, settings)
    encoder = Encoder(settings)
    _fill(encoder, mine)
    loaded = [name for name in state if name not in left]
    card = Card(
        method=origin.method, recipe="converted", branch=branch, encoder=settings, mean=tuple(preprocessing["mean"]),
        std=tuple(preprocessing["std"]), seed=0, steps=0, config_hash="converted",
        licence_of_starting_weights=licence or origin.licence,
    )  # fmt: skip
    return Converted(encoder.eval(), card, loaded, left, weights.container, taken)


def _no_place(name: str, names: Iterable[str]) -> WrongRequest:
    """For a tensor that an encoder cannot do without."""
    parts = " and ".join(parts_of(names)) or "part of what this encoder computes"
    return WrongRequest(f"{name} ({parts}) has no place in a plain vision transformer: such encoders are not supported")


def _check_left(left: Mapping[str, str], state: Mapping[str, Tensor], *, partial: bool, prefix: str) -> None:
    """Raise WrongRequest for tensors without a place, or for those that must not be left out."""
    unknown = [name for name, reason in left.items() if reason == UNKNOWN]
    essential = [name for name in unknown if ESSENTIAL.match(name.removeprefix(prefix))]
    if essential:
        raise _no_place(essential[0], unknown)
    if unknown and not partial:
        raise WrongRequest(
            f"{len(unknown)} of {len(state)} tensors have no place in an encoder, {unknown[0]} first: is it another "
            "kind of file (--from)? --partial leaves them"
        )


UNKNOWN, NO_TABLE = "no such tensor in an encoder", torch.zeros(0)


def _sorted(state: Mapping[str, Tensor], origin: Origin, branch: Branch) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the branch's encoder under timm's names, and why the others are left."""
    wanted, others = origin.prefixes[branch], [p for b, p in origin.prefixes.items() if b != branch]
    mine: dict[str, Tensor] = {}
    left: dict[str, str] = {}
    for name, value in state.items():
        bare = name.removeprefix(wanted)
        if re.match(origin.heads, name):
            left[name] = "a head: pre-training and classification end here"
        elif name.startswith(wanted) and OF_ENCODER.match(bare):
            mine[bare] = value.detach().float()
        elif any(name.startswith(other) and OF_ENCODER.match(name.removeprefix(other)) for other in others):
            left[name] = "the target branch: --branch chooses"
        elif not name.startswith(wanted):
            left[name] = f"not under {wanted}"
        else:
            left[name] = UNKNOWN
    if not mine:
        raise WrongRequest(
            f"no tensor name (the first is {next(iter(state))}) fits this kind of file: choose another --from"
        )
    return mine, left


def _settings(
    mine: Mapping[str, Tensor],
    origin: Origin,
    *,
    heads: int | None,
    arguments: Any,
    image_size: tuple[int, int] | None,
) -> EncoderSettings:
    """Sizes, read off the shapes."""
    if ANCHOR not in mine:
        raise WrongRequest(f"the file has no {ANCHOR}: it holds no vision transformer that can be read")
    class_token = "cls_token" in mine
    if not class_token and origin in ORIGINS.values():
        raise WrongRequest("the file has no cls_token: it is not whole, or of another make (--from)")
    width, channels, patch = mine["patch_embed.proj.weight"].shape[:3]
    depth = 1 + max((int(name.split(".")[1]) for name in mine if name.startswith("blocks.")), default=-1)
    registers = mine["reg_token"].shape[1] if "reg_token" in mine else 0
    stated = getattr(arguments, "heads", None) or getattr(arguments, "num_heads", None)
    found = heads or stated or origin.heads_by_width.get(width)
    if not found:
        raise WrongRequest(
            f"the number of attention heads for width {width} is unknown: convert the weights with --heads N"
        )
    scale = "blocks.0.ls1.gamma" in mine
    settings = EncoderSettings(
        image_size=image_size or _image_size(mine, patch, class_token + registers),
        class_token=class_token, patch_size=patch, channels=channels, width=width, depth=depth, heads=int(found),
        registers=registers,
        layer_scale=1.0 if scale else None, train_patch_embedding=True, final_norm="norm.weight" in mine,
    )  # fmt: skip
    settings.check()
    return settings


def _image_size(mine: Mapping[str, Tensor], patch: int, prefix: int) -> tuple[int, int]:
    """Of a square image; 224 where there is no table to read it off."""
    if not mine["pos_embed"].numel():
        return 224 // patch * patch, 224 // patch * patch
    tokens = mine["pos_embed"].shape[1]
    for before in (1, 0, prefix):
        side = round((tokens - before) ** 0.5)
        if side * side == tokens - before:
            return side * patch, side * patch
    raise WrongRequest(f"pos_embed has {tokens} positions, no square: such files are not supported")


def _positions(mine: dict[str, Tensor], settings: EncoderSettings) -> tuple[dict[str, Tensor], EncoderSettings]:
    """A table that is sine and cosine is computed from now on; another is kept as learned."""
    table = mine.pop("pos_embed")
    if not table.numel():
        return mine, settings
    grid, prefix = PatchGrid(*settings.grid), int(settings.class_token) + settings.registers
    before, patches = table[0, : table.shape[1] - grid.patches], table[0, table.shape[1] - grid.patches :]
    before = before[:prefix]  # a file may keep the place of a token that it lacks
    computed = sincos_grid(grid, width=settings.width)
    if before.abs().amax() < SINCOS_TOLERANCE if len(before) else True:
        for column_first, wanted in ((False, computed), (True, halves_swapped(computed))):
            if (patches - wanted).abs().amax() < SINCOS_TOLERANCE:
                return mine, settings.model_copy(update={"column_first": column_first})
    whole = torch.zeros(1, prefix + grid.patches, settings.width)
    whole[0, prefix:] = patches
    whole[0, : len(before)] = before
    return {**mine, "pos_embed": whole}, settings.model_copy(update={"positions": "learned"})


def _fill(encoder: Encoder, mine: Mapping[str, Tensor]) -> None:
    expected = encoder.vit.state_dict()
    for name in sorted(expected.keys() | mine.keys()):
        if name not in mine:
            raise WrongRequest(f"the file lacks {name}: it is not whole, or of another make")
        if name not in expected:
            raise _no_place(name, mine.keys() - expected.keys())
        if mine[name].shape != expected[name].shape:
            raise WrongRequest(
                f"{name} is {list(mine[name].shape)}, not {list(expected[name].shape)} as the rest implies"
            )
    encoder.vit.load_state_dict(dict(mine))


def twin_in_timm(found: Converted) -> VisionTransformer:
    """timm's own vision transformer with the file's tensors, its table of positions included where it has one."""
    had = found.encoder.settings
    twin = VisionTransformer(
        img_size=had.image_size, patch_size=had.patch_size, in_chans=had.channels, embed_dim=had.width, depth=had.depth,
        num_heads=had.heads, num_classes=0, global_pool="", reg_tokens=had.registers, init_values=had.layer_scale,
        final_norm=had.final_norm, class_token=had.class_token, weight_init="skip",
    )  # fmt: skip
    mine = dict(found.state)
    table, whole = mine.pop("pos_embed"), twin.state_dict()["pos_embed"]
    if not table.numel():
        whole = table_of(found.encoder, had.image_size)
    else:
        whole = torch.zeros_like(whole)
        before, prefix = table.shape[1] - PatchGrid(*had.grid).patches, found.encoder.prefix
        whole[:, :before], whole[:, prefix:] = table[:, :before], table[:, before:]
    twin.load_state_dict({**mine, "pos_embed": whole})
    return twin.eval()
