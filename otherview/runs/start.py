"""Weights that a run starts from: an encoder of ours, or one that was converted, of any image size."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from otherview.config import RunConfig
from otherview.errors import WrongRequest
from otherview.evaluation.fingerprint import weights_fingerprint
from otherview.geometry import PatchGrid
from otherview.methods.learner import Learner
from otherview.nn.positions import resampled
from otherview.weights.names import check_weights, load_encoder

SAME = "width", "depth", "heads", "patch_size", "channels", "registers"
"""Sizes that a recipe must share with the weights it starts from."""
OF_THE_WEIGHTS = "positions", "column_first"
"""What belongs to weights, not to a recipe."""


class Start(NamedTuple):
    """Weights under timm's names, as the run's encoder wants them."""

    state: dict[str, Tensor]
    licence: str
    said: list[str]
    """What was not taken as it is."""

    def into(self, learner: Learner) -> None:
        """Into every encoder of a learner: the online one and the target."""
        for encoder in learner.encoders.values():
            encoder.vit.load_state_dict(self.state)


def starting(config: RunConfig, init: str | Path) -> tuple[RunConfig, Start]:
    """The config of a run that starts from these weights, and the weights; raises WrongRequest where they do not fit."""
    check_weights(init)

    loaded = load_encoder(init)
    had, wanted = loaded.card.encoder, config.encoder
    for name in SAME:
        if getattr(had, name) != getattr(wanted, name):
            flag = f"--encoder.{name.replace('_', '-')} {getattr(had, name)}"
            raise WrongRequest(
                f"--init {init} has encoder.{name} {getattr(had, name)}, the recipe {getattr(wanted, name)}: give {flag}, "
                "or a recipe of its size"
            )
    if (had.layer_scale is None) != (wanted.layer_scale is None):
        raise WrongRequest(
            f"--init {init} has encoder.layer_scale {had.layer_scale}: give --encoder.layer-scale as well"
        )
    adopted = wanted.model_copy(update={name: getattr(had, name) for name in OF_THE_WEIGHTS})
    config = config.model_copy(update={"encoder": adopted, "start_from": weights_fingerprint(loaded.encoder)})
    state, said = dict(loaded.encoder.vit.state_dict()), list[str]()
    if had.final_norm and not wanted.final_norm:
        state = {name: value for name, value in state.items() if not name.startswith("norm.")}
        said.append("the norm after the last block is left out: this method has none")
    if wanted.final_norm and not had.final_norm:
        state |= {"norm.weight": torch.ones(had.width), "norm.bias": torch.zeros(had.width)}
        said.append("the norm after the last block starts plain: the weights have none")
    if "pos_embed" in state and had.grid != wanted.grid:
        before, table = state["pos_embed"].split([1 + had.registers, PatchGrid(*had.grid).patches], dim=1)
        state["pos_embed"] = torch.cat(
            [before, resampled(table[0], PatchGrid(*had.grid), PatchGrid(*wanted.grid))[None]], 1
        )
        said.append(
            f"positions are resampled from {had.grid[0]}×{had.grid[1]} to {wanted.grid[0]}×{wanted.grid[1]} patches"
        )
    licence = loaded.card.licence_of_starting_weights
    return config, Start(state, licence, [f"starting from {init} ({loaded.card.method}; licence: {licence})", *said])
