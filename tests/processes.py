"""Processes that tests start."""

import os


def as_a_user(**environment: str) -> dict[str, str]:
    """This environment and what is added, without the checks of shapes.

    They cost half of a short command's time, and they draw from Python's generator, as timm does: a run with them is not
    the run without.
    """
    return {**os.environ, "OTHERVIEW_TYPECHECK": "0", **environment}
