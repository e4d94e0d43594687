"""The one error a user may cause, and three more that others have to know.

A wrong request is answered by one line that names the value, what was expected and what to do; the command line
turns it into exit status 2. Everything else that goes wrong is a failed run (status 1).
"""


class WrongRequest(ValueError):
    """The request cannot be fulfilled as it stands; the message names the value and the remedy."""


class BrokenImage(Exception):
    """One image cannot be read; training replaces it by a stated rule, evaluation and `doctor` name it."""


class WrongChannels(BrokenImage):
    """It has `channels` channels, where another number was asked for."""

    def __init__(self, message: str, channels: int) -> None:
        super().__init__(message)
        self.channels = channels

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return type(self), (str(self), self.channels)


class Stopped(Exception):
    """The run was asked to stop and wrote a checkpoint; the same command continues it (exit status 75)."""
