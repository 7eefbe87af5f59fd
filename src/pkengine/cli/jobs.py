"""Shows the steps of a job while the engine works on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from pkengine.cli.exit_status import CommandFailed
from pkengine.cli.rest_client import Entity, RestClient, items
from pkengine.cli.terminal import printable

#: How often the engine is asked how far it is.
POLL_INTERVAL_S = 0.5
_WIDTH_OF_BAR = 24


@dataclass(frozen=True, slots=True)
class StepView:
    """One step as it is shown.

    Attributes:
        status: ``started``, ``finished``, ``failed``, ``aborted`` or ``unknown``.
        percent: how far it is, where that can be told.
        seconds: how long it took, once it has ended.
    """

    id: str
    description: str
    status: str
    percent: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, step: Entity) -> StepView:
        """Read a step of the REST API, where times are milliseconds since the epoch."""
        percent, start, end = (step.get(name) for name in ("progress", "start_time", "end_time"))
        return cls(
            str(step["id"]),
            str(step["description"]),
            str(step["status"]),
            None if percent is None else int(percent),
            None if start is None or end is None else (int(end) - int(start)) / 1000,
        )


class Progress(Protocol):
    """Shows steps as they go on."""

    def show(self, step: StepView) -> None:
        """Take the newest state of a step."""


class PlainProgress:
    """One line when a step has ended, for logs.

    Args:
        write: prints a line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._shown: set[str] = set()

    def show(self, step: StepView) -> None:
        """Print the step, once it has ended."""
        if step.status in ("started", "unknown") or step.id in self._shown:
            return
        self._shown.add(step.id)
        mark = {"finished": "✓"}.get(step.status, "✗")
        self._write(f"  {mark} {step.description}{_duration(step)}")


class TerminalProgress:
    """A line a step, drawn in place, with a bar while a percentage is known."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def show(self, step: StepView) -> None:
        """Draw the step's line."""
        if step.status == "unknown":
            return  # its turn has not come
        task = self._tasks.get(step.id)
        if task is None:
            task = self._tasks[step.id] = self._bars.add_task("", total=100, mark="", text="")
        mark = {"started": "[cyan]…[/]", "finished": "[green]✓[/]"}.get(step.status, "[red]✗[/]")
        text = f"{escape(printable(step.description))}[dim]{_duration(step)}[/]"
        is_bar_shown = step.status == "started" and step.percent is not None
        self._bars.update(
            task, completed=step.percent or 0, mark=mark, text=text, is_bar_shown=is_bar_shown
        )


class _Bar(ProgressColumn):
    """A bar for the task that has a percentage, and nothing for the others."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = BarColumn(bar_width=_WIDTH_OF_BAR)

    def render(self, task: Task) -> RenderableType:
        return self._bar.render(task) if task.fields.get("is_bar_shown") else Text("")


@contextlib.contextmanager
def progress_display(console: Console) -> Iterator[Progress]:
    """Show progress as fits the console: drawn in place on a terminal, else in plain lines."""
    if not console.is_terminal:
        yield PlainProgress(
            lambda line: console.print(printable(line), markup=False, soft_wrap=True)
        )
        return
    columns = (TextColumn("  {task.fields[mark]}"), TextColumn("{task.fields[text]}"), _Bar())
    with RichProgress(*columns, console=console) as bars:
        yield TerminalProgress(bars)


def _duration(step: StepView) -> str:
    return "" if step.seconds is None else f"  {step.seconds:.1f} s"


class JobWatch:
    """Follows the newest job of a host.

    Args:
        client: asks the engine.
        host_id: which host.
        progress: told of each step; None shows nothing and asks the engine nothing.
    """

    def __init__(self, client: RestClient, host_id: str, progress: Progress | None) -> None:
        self._client = client
        self._host_id = host_id
        self._progress = progress
        self._job_id: str | None = None

    async def update(self) -> None:
        """Ask how far the steps are, and show it."""
        if self._progress is None:
            return
        if self._job_id is None:
            jobs = items(await self._client.get(f"/hosts/{self._host_id}/jobs", max=1), "job")
            if not jobs:
                return
            self._job_id = str(jobs[0]["id"])
        await _show_steps(self._client, self._job_id, self._progress)


async def follow_job(
    client: RestClient, job_id: str, progress: Progress, *, timeout_s: float
) -> Entity:
    """Show the steps of a job until it has ended; give it as it is then.

    Raises:
        CommandFailed: it has not ended in time; the engine goes on.
    """
    clock = IReactorTime(client.reactor)
    deadline = clock.seconds() + timeout_s
    while True:
        job = await client.get(f"/jobs/{job_id}")
        await _show_steps(client, job_id, progress)
        if job.get("end_time"):
            return job
        if clock.seconds() >= deadline:
            raise CommandFailed(
                f"{job['description']!r} has not ended after {timeout_s:g} s; the engine goes on."
            )
        await deferLater(clock, POLL_INTERVAL_S)


async def _show_steps(client: RestClient, job_id: str, progress: Progress) -> None:
    steps = items(await client.get(f"/jobs/{job_id}/steps"), "step")
    for step in sorted(steps, key=lambda step: int(step["number"])):
        progress.show(StepView.of(step))
