"""Weights as other programs pickle them, read without executing anything.

Only tensors, plain containers, argparse.Namespace and NumPy's scalars are built, since official files hold those; any
other name in a file is refused.
"""

import argparse
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from otherview.errors import WrongRequest

_SCALAR = np._core.multiarray.scalar  # pyright: ignore[reportAttributeAccessIssue]
ALLOWED: list[Any] = [
    argparse.Namespace,
    np.dtype,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # its name before NumPy 2
    (_SCALAR, "numpy._core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
]
KNOWN = re.compile(
    r"torch\..*|collections\.OrderedDict|argparse\.Namespace|numpy\.(dtype|(_?core)\.multiarray\.scalar)|numpy\.dtypes\..*"
)
"""Names that a file of weights may ask for."""


def read_file(path: Path) -> dict[str, Any]:
    """The content of a checkpoint: *.safetensors, or what torch.save wrote; raises WrongRequest for anything else."""
    if not path.is_file():
        raise WrongRequest(f"{path} does not exist: give a checkpoint's file")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old kinds of pickles
            content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise WrongRequest(f"{path} is no readable safetensors file: {error}") from error
    except Exception as error:
        raise WrongRequest(_reason(path, str(error))) from error
    if not isinstance(content, dict):
        raise WrongRequest(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _reason(path: Path, said: str) -> str:
    strange = next((name for name in _globals_of(path) if not KNOWN.fullmatch(name)), None)
    if strange:
        return (
            f"{path} asks for {strange}, which is no part of weights: nothing of it was executed, do not trust the file"
        )
    first = said.splitlines()[0][:80] if said else "no reason given"
    return f"{path} cannot be read as weights: it is not whole, or no file of torch.save ({first})"


def _globals_of(path: Path) -> Iterator[str]:
    """The names that a pickle asks for, read off its instructions without following them."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                data = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
        else:
            data = path.read_bytes()
        words: list[str] = []
        for operation, argument, _ in pickletools.genops(data):
            if operation.name == "GLOBAL":
                yield str(argument).replace(" ", ".")
            elif operation.name == "STACK_GLOBAL":
                yield ".".join(words[-2:])
            elif isinstance(argument, str):
                words.append(argument)
    except (ValueError, StopIteration, OSError, zipfile.BadZipFile, EOFError, IndexError):
        return  # no pickle, or not a whole one
