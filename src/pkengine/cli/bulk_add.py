"""Adds many hosts: reviews them all, asks once, then deploys a few at a time.

What was done is the engine's to know: a run that was interrupted is continued by the same
command, which skips the hosts that are there and installs again where that failed.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.host_file import HostRow
from pkengine.cli.host_key_question import confirm_way
from pkengine.cli.host_options import agent_way_entity
from pkengine.cli.host_review import (
    DEFAULT_SSH_PORT,
    Review,
    review_hosts,
    show_review,
)
from pkengine.cli.hosts import SshAccess, act, add_host, list_hosts, newest_event, wait_for_host
from pkengine.cli.jobs import StepView
from pkengine.cli.rest_client import Entity, RestClient
from pkengine.cli.terminal import ask, printable, show_columns, show_json, tell
from pkengine.cli.ways import Jump, Way
from pkengine.engine.model import RowJudgement as Judgement
from pkengine.engine.pool import in_pool
from pkengine.keys import Secret


class Outcome(enum.Enum):
    """What has become of a row."""

    ADDED = "added"
    BEGUN = "begun"
    SKIPPED = "skipped"
    NOT_ACCEPTED = "not accepted"
    FAILED = "failed"


_GOOD = (Outcome.ADDED, Outcome.BEGUN, Outcome.SKIPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOptions:
    """What holds for all hosts of a file; a row's own cell comes before it.

    Attributes:
        is_confirmed: ask nobody.
        trust_on_first_use: accept hosts of which no key was given.
        parallel: how many deployments run at the same time.
        way: the machines on the way.
    """

    ssh_port: int | None = None
    ssh_user: str | None = None
    connection: str | None = None
    mechanism: str | None = None
    require_direct: bool = False
    port: int | None = None
    cluster: str | None = None
    comment: str | None = None
    activate: bool = True
    is_confirmed: bool = False
    trust_on_first_use: bool = False
    parallel: int = 8
    wait: bool = True
    timeout_s: float = 600.0
    way: Way | None = None

    @property
    def goals(self) -> tuple[str, ...]:
        """The status at which a host has arrived."""
        return ("up",) if self.activate else ("maintenance",)


@dataclass(frozen=True, slots=True)
class Result:
    """How a row ended."""

    review: Review
    outcome: Outcome
    detail: str = ""

    def entity(self) -> Entity:
        """Give it as a JSON object."""
        return self.review.entity() | {"outcome": self.outcome.value, "detail": self.detail}


async def add_hosts(
    client: RestClient,
    rows: Sequence[HostRow],
    options: BulkOptions,
    password: Callable[[], Secret | None],
    *,
    as_json: bool,
) -> None:
    """Review, confirm, deploy, and print what has become of each row.

    Args:
        client: asks the engine.
        rows: what is in the file.
        options: what holds for all of them.
        password: gives that of the SSH users, or None for the engine's own key; asked once,
            when it is clear that somebody is to be logged in to.
        as_json: print a list in place of columns.

    Raises:
        CommandFailed: not every host of the file is there at the end, or nobody agreed.
    """
    console = Console(stderr=True)
    hosts = await list_hosts(client)
    ways = await _ways(client, rows, options)
    with _looking(console, len(rows)) as looked_at:
        reviews = await review_hosts(
            client, rows, hosts, options.ssh_port or DEFAULT_SSH_PORT, ways, looked_at
        )
    show_review(console, reviews)
    accepted = [review for review in reviews if _is_acceptable(review, options)]
    begun = [review for review in reviews if review.is_begun]
    is_reviewed = False
    if accepted and not options.is_confirmed:
        _confirm(accepted, reviews)
        is_reviewed = True
    secret = password() if accepted else None
    results = {
        review.row: _untouched(review)
        for review in reviews
        if review not in accepted and (review not in begun or not options.wait)
    }
    with _display(console, options.parallel) as display:
        deployment = _Deployment(client, options, secret, ways, display, is_reviewed=is_reviewed)
        for result in await deployment.run([r for r in reviews if r.row not in results]):
            results[result.review.row] = result
    ordered = [results[row] for row in rows]
    if as_json:
        show_json([result.entity() for result in ordered])
    else:
        show_columns(
            ("NAME", "ADDRESS", "OUTCOME", "DETAIL"),
            (
                (result.review.row.name, result.review.row.address, result.outcome.value,
                 result.detail)
                for result in ordered
            ),
        )  # fmt: skip
    bad = sum(result.outcome not in _GOOD for result in ordered)
    if bad:
        raise CommandFailed(
            f"{bad} of {len(rows)} hosts were not added; run the same command again when what is "
            "in the way is gone: it skips those that are there."
        )


async def _ways(
    client: RestClient, rows: Sequence[HostRow], options: BulkOptions
) -> dict[HostRow, Way]:
    """Give the ways that the rows and the options say; each jump host is judged once."""
    confirmed: dict[Way, Way] = {}
    ways = {}
    for row in rows:
        way = options.way if row.jumps is None else tuple(map(Jump, row.jumps))
        if way is None:
            continue
        if way not in confirmed:
            is_judged = options.trust_on_first_use
            confirmed[way] = way if is_judged else await confirm_way(client, way)
        ways[row] = confirmed[way]
    return ways


def _is_acceptable(review: Review, options: BulkOptions) -> bool:
    if review.judgement is Judgement.FIRST_USE:
        return options.trust_on_first_use or not options.is_confirmed
    return review.judgement is Judgement.MATCH


def _confirm(accepted: Sequence[Review], reviews: Sequence[Review]) -> None:
    first = sum(review.judgement is Judgement.FIRST_USE for review in accepted)
    left = sum(
        review.judgement not in (Judgement.MATCH, Judgement.FIRST_USE, Judgement.THERE)
        for review in reviews
    )
    if first:
        tell(
            f"Keys that were not given: {first}. By 'yes' you say that you have compared them "
            "with those on the hosts' consoles."
        )
    if left:
        tell(f"Hosts that are left out: {left}.")
    while (answer := ask(f"Add {len(accepted)} hosts (yes/no)").strip().lower()) != "yes":
        if answer == "no":
            raise CommandFailed("No host was added.", ExitStatus.REFUSED)
        tell("Please type 'yes' or 'no'.")


def _untouched(review: Review) -> Result:
    """Tell of a row for which nothing is done."""
    if review.judgement is Judgement.THERE:
        return Result(review, Outcome.SKIPPED, review.detail)
    if review.judgement is Judgement.FIRST_USE:
        return Result(
            review,
            Outcome.NOT_ACCEPTED,
            "No fingerprint was given for it: put it into the file, or use --trust-on-first-use.",
        )
    sentences = {
        Judgement.MISMATCH: "Its SSH host key is not the one expected.",
        Judgement.OTHER_TYPE: "It has no SSH host key of the type expected.",
    }
    return Result(review, Outcome.FAILED, sentences.get(review.judgement, review.detail))


class _Display:
    """Shows how far each host is: a line for each at a terminal, else one when it has ended."""

    def __init__(self, console: Console, bars: Progress | None) -> None:
        self._console = console
        self._bars = bars

    @contextlib.contextmanager
    def host(self, name: str) -> Iterator[_HostDisplay]:
        """Show a host while the context lasts."""
        name = printable(name)
        if self._bars is None:
            yield _HostDisplay(None, None)
            return
        task = self._bars.add_task("", total=100, name=escape(name), text="logging in")
        try:
            yield _HostDisplay(self._bars, task)
        finally:
            self._bars.remove_task(task)

    def ended(self, result: Result) -> None:
        """Print how a host has ended."""
        mark = "[green]✓[/]" if result.outcome in _GOOD else "[red]✗[/]"
        line = f"{mark} {escape(printable(result.review.row.name))}: {result.outcome.value}"
        if result.outcome not in _GOOD:
            line += f": {escape(printable(result.detail))}"
        self._console.print(line, highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class _HostDisplay:
    """Takes the steps of one host; see `pkengine.cli.jobs.Progress`."""

    bars: Progress | None
    task: TaskID | None

    def show(self, step: StepView) -> None:
        """Draw the step that is under way."""
        if self.bars is not None and self.task is not None and step.status == "started":
            text = escape(printable(step.description))
            self.bars.update(self.task, text=text, completed=step.percent or 0)


@contextlib.contextmanager
def _display(console: Console, lines: int) -> Iterator[_Display]:
    if not console.is_terminal:
        yield _Display(console, None)
        return
    columns = (
        TextColumn("  [bold]{task.fields[name]}[/]"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield _Display(bars.console, bars)


@contextlib.contextmanager
def _looking(console: Console, total: int) -> Iterator[Callable[[], None]]:
    if not console.is_terminal:
        yield lambda: None
        return
    columns = (
        TextColumn("Fetching SSH host keys"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed}/{task.total}"),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=total)
        yield lambda: bars.advance(task)


class _Deployment:
    """Adds or installs hosts, some at a time.

    Args:
        client: asks the engine.
        options: what holds for all.
        password: of the SSH users, or None for the engine's own key.
        ways: to the hosts that are not reached directly.
        display: shows how far each is.
        is_reviewed: a person has looked at the keys, so just those are to be accepted.
    """

    def __init__(
        self,
        client: RestClient,
        options: BulkOptions,
        password: Secret | None,
        ways: Mapping[HostRow, Way],
        display: _Display,
        *,
        is_reviewed: bool,
    ) -> None:
        self._client = client
        self._options = options
        self._password = password
        self._ways = ways
        self._display = display
        self._is_reviewed = is_reviewed
        self._under_way: dict[HostRow, None] = {}

    async def run(self, reviews: Sequence[Review]) -> list[Result]:
        """Deploy them; an interrupt stops the waiting, and the engine goes on."""
        try:
            return await in_pool(self._options.parallel, self._one, reviews)
        except BaseException:
            if self._under_way:
                names = ", ".join(row.name for row in self._under_way)
                tell(
                    f"The engine goes on with what it has begun: {names}. The same command takes "
                    "up the rest."
                )
            raise

    async def _one(self, review: Review) -> Result:
        with self._display.host(review.row.name) as progress:
            self._under_way[review.row] = None
            try:
                result = await self._deploy(review, progress)
            except CommandFailed as error:
                if error.status in (ExitStatus.UNREACHABLE, ExitStatus.NOT_AUTHORIZED):
                    raise  # it is the engine that is out of reach
                result = Result(review, Outcome.FAILED, str(error))
            del self._under_way[review.row]
        self._display.ended(result)
        return result

    async def _deploy(self, review: Review, progress: _HostDisplay) -> Result:
        options = self._options
        since = await newest_event(self._client)
        if review.is_begun:
            assert review.known is not None
            host = review.known
        else:
            host = await self._begin(review)
        if not options.wait:
            return Result(review, Outcome.BEGUN)
        host = await wait_for_host(
            self._client,
            host,
            options.goals,
            since_event=since,
            progress=progress,
            timeout_s=options.timeout_s,
        )
        return Result(review, Outcome.ADDED, f"Its status is {host.get('status')}.")

    async def _begin(self, review: Review) -> Entity:
        options, row = self._options, review.row
        fingerprint = row.fingerprint
        if self._is_reviewed and review.judgement is Judgement.FIRST_USE:
            # What was shown and agreed to is what is trusted, whoever answers now.
            fingerprint = review.found[0].fingerprint()
        access = SshAccess(
            port=row.ssh_port or options.ssh_port,
            user=row.ssh_user or options.ssh_user,
            fingerprint=fingerprint,
            public_key=row.public_key,
            password=self._password,
            way=self._ways.get(row),
        )
        agent_way = agent_way_entity(
            row.connection or options.connection,
            row.mechanism or options.mechanism,
            require_direct=options.require_direct,
        )
        if review.known is not None:
            await act(
                self._client,
                review.known,
                "install",
                ssh=access.entity(),
                activate=options.activate,
                reboot=False,
                **agent_way,
            )
            return review.known
        return await add_host(
            self._client,
            row.name,
            row.address,
            access,
            agent_way=agent_way,
            agent_port=row.port or options.port,
            cluster=row.cluster or options.cluster,
            comment=row.comment or options.comment,
            description=row.description,
            activate=options.activate,
        )
