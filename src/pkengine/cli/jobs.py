"""Shows the steps of a job while the engine works on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from pkengine.cli.rest_client import Entity, RestClient, items
from pkengine.cli.terminal import printable


@dataclass(frozen=True, slots=True)
class StepView:
    """One step as it is shown.

    Attributes:
        status: ``started``, ``finished``, ``failed``, ``aborted`` or ``unknown``.
        percent: how far it is, where that can be told.
    """

    id: str
    description: str
    status: str
    percent: int | None = None


class Progress(Protocol):
    """Shows steps as they go on."""

    def show(self, step: StepView) -> None:
        """Take the newest state of a step."""


class PlainProgress:
    """One line when a step begins to be known and one when it ends, for logs.

    Args:
        write: prints a line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._shown: dict[str, str] = {}

    def show(self, step: StepView) -> None:
        """Print the step where its state is news."""
        if self._shown.get(step.id) == step.status or step.status == "unknown":
            return
        self._shown[step.id] = step.status
        mark = {"finished": "done", "started": "..."}.get(step.status, step.status)
        self._write(f"  {step.description}: {mark}")


class TerminalProgress:
    """A line a step, drawn in place, with a bar where the percentage is known."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def show(self, step: StepView) -> None:
        """Draw the step's line."""
        if step.status == "unknown":
            return  # its turn has not come
        task = self._tasks.get(step.id)
        if task is None:
            task = self._tasks[step.id] = self._bars.add_task("", total=None, mark="", text="")
        mark = {
            "finished": "[green]✓[/]",
            "failed": "[red]✗[/]",
            "aborted": "[red]✗[/]",
        }.get(step.status, "[cyan]…[/]")
        done = step.status != "started"
        percent = 100 if step.status == "finished" else step.percent
        text = escape(printable(step.description))
        self._bars.update(task, completed=percent or 0, mark=mark, text=text)
        if percent is not None:
            self._bars.update(task, total=100)
        if done:
            self._bars.stop_task(task)


@contextlib.contextmanager
def progress_display(console: Console) -> Iterator[Progress]:
    """Show progress as fits the console: drawn in place on a terminal, else in plain lines."""
    if not console.is_terminal:
        yield PlainProgress(
            lambda line: console.print(printable(line), markup=False, soft_wrap=True)
        )
        return
    columns = (
        TextColumn("  {task.fields[mark]}"),
        TextColumn("{task.fields[text]}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
    )
    with RichProgress(*columns, console=console) as bars:
        yield TerminalProgress(bars)


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
        steps = items(await self._client.get(f"/jobs/{self._job_id}/steps"), "step")
        for step in sorted(steps, key=lambda step: int(step["number"])):
            self._progress.show(step_view(step))


def step_view(step: Entity) -> StepView:
    """Read a step of the REST API."""
    percent = step.get("progress")
    return StepView(
        str(step["id"]),
        str(step["description"]),
        str(step["status"]),
        None if percent is None else int(percent),
    )
