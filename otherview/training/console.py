"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere. Standard error only."""

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_EVERY_SECONDS, WORTH_A_LINE_SECONDS, VERDICT_EVERY_SECONDS = 15.0, 2.0, 60.0


def stderr_console() -> Console:
    """The console for progress, warnings and errors."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


class RunProgress:
    """Progress of a run with images/s, time left, and the share of time waited for data."""

    def __init__(self, *, total: int, start: int = 0, speak: bool = True, title: str = "pre-training") -> None:
        self.total, self.start, self.speak, self.title = total, start, speak, title
        self.console = stderr_console()
        self.began = self.said = self.judged = time.monotonic()
        self.done = start
        self.bar: Progress | None = None
        if speak and sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[metrics]}"),
                TimeRemainingColumn(), console=self.console,
            )  # fmt: skip
            self.task = self.bar.add_task(title, total=total, completed=start, metrics="")

    def __enter__(self) -> "RunProgress":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def step(self, done: int, metrics: Mapping[str, str]) -> None:
        """`done` of `total` steps are behind us."""
        text = "".join(f" · {name} {value}" for name, value in metrics.items())
        if self.bar:
            self.bar.update(self.task, completed=done, metrics=text.removeprefix(" · "))
        elif self.speak and self._is_time(done):
            self.said = time.monotonic()
            left = (self.said - self.began) / max(1, done - self.start) * (self.total - done)
            self.console.print(f"{self.title} {done}/{self.total}{text} · {clock(left)} left", markup=False)

    def _is_time(self, done: int) -> bool:
        """Plain lines come now and then; the last one where it took long enough to be waited for."""
        now = time.monotonic()
        return now - self.said > PLAIN_EVERY_SECONDS or (done == self.total and now - self.began > WORTH_A_LINE_SECONDS)

    def advance(self, count: int) -> None:
        """`count` more steps are behind us."""
        self.done += count
        self.step(self.done, {})

    def warn(self, text: str | None) -> None:
        """A line above the bar, where there is something to say."""
        if text:
            self.say(text)

    def judge(self, text: str) -> None:
        """A verdict above the bar, at most once a minute."""
        if (now := time.monotonic()) - self.judged >= VERDICT_EVERY_SECONDS:
            self.judged = now
            self.say(text)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self.speak:
            (self.bar.console if self.bar else self.console).print(text, markup=False)


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
