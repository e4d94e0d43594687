"""The word reference:NAME: a run that ships with the package, its encoder and its curves, for the first minute. Torch-free."""

from importlib import resources
from pathlib import Path

from otherview.errors import WrongRequest

PREFIX = "reference:"


def resolved(where: str | Path) -> Path:
    """The folder of a shipped run, or the path as it is; raises WrongRequest for a name that there is none of."""
    if not str(where).startswith(PREFIX):
        return Path(where)
    shipped = Path(str(resources.files("otherview").joinpath("reference")))
    name = str(where).removeprefix(PREFIX)
    known = (
        sorted(path.name for path in shipped.iterdir() if (path / "config.yaml").exists()) if shipped.is_dir() else []
    )
    if name not in known:
        raise WrongRequest(
            f"{where} is no run that ships with otherview: there is {', '.join(PREFIX + one for one in known)}"
        )
    return shipped / name
