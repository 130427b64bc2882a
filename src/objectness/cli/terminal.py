"""What people see: lines on stderr, progress, advice; and files that are written whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.console import Group as Rows
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from ..errors import ConfigError

SECONDS_BETWEEN_LINES = 30.0  # without a terminal, a plain line of progress so often

err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Print one line to stderr, whatever names of files are in it."""
    err.print("".join(c if c.isprintable() else repr(c)[1:-1] for c in message), markup=False)


def fail(reason: object, code: int) -> int:
    """Say in one line what went wrong; gives the exit code back."""
    say(f"objectness: {' '.join(str(reason).splitlines())}")
    return code


@contextmanager
def advise(advice: str | None) -> Iterator[None]:
    """Let Ctrl-C tell how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(*filter(None, [advice])) from stop


class Meter:
    """How far a command is: a bar on a terminal, a plain line now and then elsewhere.

    Args:
        name: of the command.
        total: of what is done, where it is known by now.
        hidden: show nothing.
    """

    def __init__(self, name: str, total: int | None = None, *, hidden: bool = False):
        self.name, self.total, self.text = name, total, ""
        self.first: tuple[float, int] | None = None  # when was how much done
        self.last_line = time.monotonic()
        self.is_plain = not err.is_terminal or err.is_dumb_terminal
        self.hidden = hidden
        self.bar = Bar(self)
        self.task = self.bar.add_task(name, total=total, left="")

    def __enter__(self) -> Meter:
        if not (self.hidden or self.is_plain):
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not (self.hidden or self.is_plain):  # without a terminal, stopping would print an empty line
            self.bar.stop()

    def advance(self, done: int, text: str = "", seconds_left: float | None = None) -> None:
        """Tell that `done` is done by now, with a text; the time left is estimated where it is not given."""
        self.text = text
        self.first = self.first or (time.monotonic(), done)
        seconds, count = time.monotonic() - self.first[0], done - self.first[1]
        if seconds_left is None and self.total is not None and count > 0:
            seconds_left = (self.total - done) * seconds / count
        left = "" if seconds_left is None else f"{show_time(seconds_left)} left"
        self.bar.update(self.task, completed=done, total=self.total, left=left)
        if self.is_plain and not self.hidden and time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            say(", ".join(filter(None, (f"{self.name}: {done}/{self.total}", left, text))))


class Bar(Progress):
    """A bar on one line, and a meter's text on the next."""

    def __init__(self, meter: Meter):
        self.meter = meter
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
        )
        super().__init__(*columns, console=err, redirect_stdout=False)  # stdout is for results

    def get_renderable(self) -> RenderableType:
        """What is shown."""
        bar = super().get_renderable()
        return Rows(bar, Text(self.meter.text, no_wrap=True, overflow="ellipsis")) if self.meter.text else bar


def show_time(seconds: float) -> str:
    """Hours, minutes and seconds; days of training are hours too, in one column."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where it is not there.

    Raises:
        ConfigError: it cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: is no folder and cannot be made one ({error.strerror})") from error
