"""A module's whole state as safetensors, with what it is in the metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from otherview.atomic import atomically


def save_state(path: Path, module: nn.Module, *, about: Mapping[str, Any]) -> None:
    """Write it, atomically."""
    state = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    metadata = {"otherview_model": json.dumps(about), "format": "pt"}
    atomically(path, lambda temporary: save_file(state, temporary, metadata=metadata))
