"""Weights as other programs keep them: where they lie in a checkpoint, what is wrapped around their names, other names.

    found = weights_in(read_file(path), branch=None)
    found.tensors                  # under timm's names, wrappers taken off
    prefix_of(found.tensors)       # "backbone.": what stands before the encoder's names

A reader is a line of a table here: CONTAINERS for programs that keep several networks, WRAPPERS for what wraps a network,
RENAMED for other words for the same layers.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from otherview.errors import WrongRequest

Branch = Literal["online", "target"]

OF_TARGET = ("teacher", "target_encoder", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "ema")
OF_ONLINE = ("model", "state_dict", "student", "encoder", "model_state_dict", "model_state", "net", "network", "module")
CONTAINERS: dict[Branch, tuple[str, ...]] = {"online": OF_ONLINE + OF_TARGET, "target": OF_TARGET + OF_ONLINE}
"""Entries that hold weights, the first that is there is taken: DINO, iBOT (student, teacher), I-JEPA (target_encoder), MAE
(model), Lightning and solo-learn (state_dict), timm (state_dict_ema)."""
JUDGED_BY_TARGET = ("teacher", "target_encoder")
"""Where one of these is, the programs' authors use the moving average."""
WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""DataParallel, torch.compile, Lightning Fabric, FSDP, activation checkpointing."""
RENAMED: tuple[tuple[str, str], ...] = (
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),  # MMPretrain's, before other layers that are numbered
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    # transformers
    (r"embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"embeddings\.register_tokens$", "reg_token"),
    (r"embeddings\.position_embeddings$", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"(?<![a-z_])(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1_proj."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"(?:^|(?<=\.))layernorm\.", "norm."),
    # DINOv2
    (r"(?:^|(?<=\.))register_tokens$", "reg_token"),
    (r"blocks\.\d+\.(\d+)\.", r"blocks.\1."),
    # MMPretrain
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"(blocks\.\d+)\.ln([12])\.", r"\1.norm\2."),
    (r"(?:^|(?<=\.))ln1\.(weight|bias)$", r"norm.\1"),
    # torchvision
    (r"(?:^|(?<=\.))conv_proj\.", "patch_embed.proj."),
    (r"(?:^|(?<=\.))class_token$", "cls_token"),
    (r"(?:^|(?<=\.))encoder\.pos_embedding$", "pos_embed"),
    (r"(?:^|(?<=\.))encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"(blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
    (r"(blocks\.\d+)\.(?:self_attention|attn\.attn)\.in_proj_", r"\1.attn.qkv."),
    (r"(blocks\.\d+)\.(?:self_attention|attn\.attn)\.out_proj\.", r"\1.attn.proj."),
    (r"(blocks\.\d+)\.mlp\.(?:0|linear_1)\.", r"\1.mlp.fc1."),
    (r"(blocks\.\d+)\.mlp\.(?:3|linear_2)\.", r"\1.mlp.fc2."),
    (r"(?:^|(?<=\.))encoder\.ln\.", "norm."),
)
"""Pattern and what stands there instead, one after another."""
QUERIES = re.compile(r"(.*\.attn)\.(?:query|q_proj)\.(weight|bias)")
STRANGE = {
    r"\brope\b|rope_|rotary|freqs|periods": "rotary positions",
    r"mlp\.(w\d|gate|fc1_[gx]|weights_in)|use_swiglu|use_gated_mlp": "a gated MLP (SwiGLU)",
    r"rel(ative)?_pos": "relative positions in attention",
    r"[qk]_norm|norm_[qk]": "norms of queries and keys",
}
"""How programs call parts that a plain vision transformer does not have, in names of tensors and in configs."""
ANCHOR = "patch_embed.proj.weight"
"""Every vision transformer has it; what stands before it stands before all of its names."""
MOVING = re.compile(r"(^|[._])(mm|momentum|teacher|target|ema|key)([._]|$)")
"""Words in the prefix of a moving average."""


class Weights(NamedTuple):
    """Of a checkpoint."""

    tensors: dict[str, Tensor]
    """Under timm's names, with the prefix of the program's own module."""
    arguments: Any
    """The program's, where they are kept beside; else None."""
    container: str
    """The entry that was taken; empty where the file is the weights."""
    branch: Branch


def weights_in(content: Mapping[str, Any], *, branch: Branch | None) -> Weights:
    """The weights of a checkpoint; raises WrongRequest where there are none."""
    wanted: Branch = branch or ("target" if any(name in content for name in JUDGED_BY_TARGET) else "online")
    container, state = _state(content, wanted)
    tensors = {WRAPPERS.sub("", str(name)): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WrongRequest(f"the file holds no weights, only {', '.join(map(str, list(content)[:5])) or 'nothing'}")
    taken = container.partition(".")[0]
    held: Branch = "target" if taken in OF_TARGET else "online" if taken == "student" else wanted
    return Weights(in_timm_names(tensors), content.get("args"), container, held)


DEEPEST = 4


def _state(content: Mapping[str, Any], branch: Branch, depth: int = 0) -> tuple[str, Mapping[str, Any]]:
    """The entry that holds tensors, and its name; containers may lie in each other."""
    if depth == DEEPEST:
        return "", {}
    for name in CONTAINERS[branch]:
        inner = content.get(name)
        if isinstance(inner, Mapping) and inner:
            if any(isinstance(value, Tensor) for value in inner.values()):
                return name, inner
            below, found = _state(inner, branch, depth + 1)
            if below:
                return f"{name}.{below}", found
    return "", content


def in_timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors as timm calls them; queries, keys and values become one."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        for pattern, instead in RENAMED:
            name = re.sub(pattern, instead, name)
        if name in found:
            raise WrongRequest(
                f"two tensors of the file are {name} in a plain vision transformer: such encoders are not supported"
            )
        found[name] = value
    for name in list(found):
        if (match := QUERIES.fullmatch(name)) is not None:
            words = ("query", "key", "value") if ".query." in name else ("q_proj", "k_proj", "v_proj")
            parts = [f"{match[1]}.{word}.{match[2]}" for word in words]
            if all(part in found for part in parts):
                found[f"{match[1]}.qkv.{match[2]}"] = torch.cat([found.pop(part) for part in parts])
    return found


def parts_of(names: Iterable[str]) -> list[str]:
    """What of these tensors, modules or settings a plain vision transformer does not have, in words."""
    names = list(names)
    return [what for pattern, what in STRANGE.items() if any(re.search(pattern, name) for name in names)]


def prefix_of(tensors: Mapping[str, Tensor], *, branch: Branch) -> str:
    """What stands before the encoder's names; raises WrongRequest where there is no vision transformer, or several."""
    prefixes = [name.removesuffix(ANCHOR) for name in tensors if name.endswith(ANCHOR)]
    if not prefixes:
        raise WrongRequest(
            f"the file holds no vision transformer: none of its {len(tensors)} tensors ends with {ANCHOR}, the first is "
            f"{next(iter(tensors))}"
        )
    moving = [prefix for prefix in prefixes if MOVING.search(prefix)]
    fitting = moving if branch == "target" and moving else [one for one in prefixes if one not in moving] or moving
    if len(fitting) > 1:
        raise WrongRequest(f"the file holds several encoders, {', '.join(fitting)}: keep one of them in a file")
    return fitting[0]
