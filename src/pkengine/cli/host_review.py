"""What is known of hosts before they are added: which key was expected, which was found.

A `Review` is made for each row of the file from what the engine sees at the host's address.
Nothing is trusted by it, and nothing but a key exchange happens with the hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.host_file import HostRow
from pkengine.cli.hosts import FoundKey, describe_key, fetch_host_keys
from pkengine.cli.rest_client import Entity, RestClient
from pkengine.cli.terminal import printable
from pkengine.cli.ways import Way
from pkengine.engine.hosts.host_key_review import judge as judge_keys
from pkengine.engine.model import HostKeySource, KeyStanding, ShownKey
from pkengine.engine.model import RowJudgement as Judgement
from pkengine.engine.pool import in_pool
from pkengine.keys import SshFingerprint, SshPublicKey

#: How many hosts the engine is asked to look at at the same time.
FETCHES_AT_ONCE = 16
DEFAULT_SSH_PORT = 22
_WIDTH_OF_TYPE = len("expected ")
_LEAST_WIDTH_OF_HOST = 12
_GAP = 3
_WIDTH_OF_KEY = _WIDTH_OF_TYPE + len("SHA256:") + 43


_STYLES = {
    Judgement.MATCH: "green",
    Judgement.FIRST_USE: "yellow",
    Judgement.MISMATCH: "bold red",
    Judgement.OTHER_TYPE: "red",
    Judgement.UNREACHABLE: "red",
    Judgement.THERE: "dim",
    Judgement.CONFLICT: "red",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One row, judged.

    Attributes:
        expected: the key or fingerprint that the file gives, else what the engine has stored;
            None where nothing is known.
        found: the key that would be trusted, or all that were found where none matches.
        detail: why, where that needs a sentence.
        known: the host as the engine has it, where a former run has made it.
    """

    row: HostRow
    judgement: Judgement
    expected: SshFingerprint | SshPublicKey | None = None
    found: tuple[SshPublicKey, ...] = ()
    detail: str = ""
    known: Entity | None = None

    @property
    def is_begun(self) -> bool:
        """Tell whether a former run has begun to install it, and the engine is still at it."""
        return self.known is not None and self.known.get("status") == "installing"

    def entity(self) -> Entity:
        """Give it as a JSON object."""
        return {
            "line": self.row.line,
            "name": self.row.name,
            "address": self.row.address,
            "judgement": self.judgement.value,
            "expected": str(_fingerprint(self.expected)) if self.expected else None,
            "found": [
                {"type": key.key_type, "fingerprint": str(key.fingerprint())} for key in self.found
            ],
            "detail": self.detail,
        }


def judge(
    row: HostRow,
    expected: SshFingerprint | SshPublicKey | None,
    found: Sequence[FoundKey],
    known: Entity | None = None,
) -> Review:
    """Compare what a host shows with what is expected of it, by the row or by the engine."""
    verdict = judge_keys(
        expected,
        [
            ShownKey(
                key=each.key,
                standing=KeyStanding(each.standing),
                source=HostKeySource(each.source) if each.source else None,
            )
            for each in found
        ],
    )
    return Review(
        row=row,
        judgement=verdict.judgement,
        expected=verdict.expected,
        found=verdict.found,
        detail=verdict.detail,
        known=known,
    )


async def review_hosts(
    client: RestClient,
    rows: Sequence[HostRow],
    hosts: Iterable[Entity],
    ssh_port: int,
    ways: Mapping[HostRow, Way],
    looked_at: Callable[[], None],
) -> list[Review]:
    """Judge every row; the engine fetches the keys of several hosts at once.

    Args:
        client: asks the engine.
        rows: what is to be added.
        hosts: those that the engine has.
        ssh_port: where a row gives none.
        ways: to the hosts that are not reached directly.
        looked_at: called when one more is judged.
    """
    by_name: dict[str, Entity] = {}
    by_address: dict[str, Entity] = {}
    for host in hosts:
        by_name[str(host.get("name"))] = host
        by_address[str(host.get("address"))] = host

    async def look(row: HostRow) -> Review:
        reviewed = await _look(client, row, by_name, by_address, ssh_port, ways.get(row))
        looked_at()
        return reviewed

    return await in_pool(FETCHES_AT_ONCE, look, rows)


async def _look(
    client: RestClient,
    row: HostRow,
    by_name: Mapping[str, Entity],
    by_address: Mapping[str, Entity],
    ssh_port: int,
    way: Way | None,
) -> Review:
    known = by_address.get(row.address)
    namesake = by_name.get(row.name)
    for other, what in ((known, "name"), (namesake, "address")):
        if other is not None and (other["name"], other["address"]) != (row.name, row.address):
            return Review(
                row=row,
                judgement=Judgement.CONFLICT,
                detail=f"There is a host {other['name']} at {other['address']} already: "
                f"give it the {what} of the file, or remove it.",
            )
    if known is not None and known.get("status") != "install_failed":
        return Review(
            row=row,
            judgement=Judgement.THERE,
            detail=f"Its status is {known.get('status')}.",
            known=known,
        )
    stored = (known or {}).get("ssh") or {}
    expected = row.public_key or row.fingerprint or _stored_key(stored)
    port = row.ssh_port or (int(stored["port"]) if "port" in stored else ssh_port)
    try:
        found = await fetch_host_keys(client, row.address, port, way)
    except CommandFailed as error:
        if error.status is not ExitStatus.REFUSED:
            raise
        return Review(
            row=row,
            judgement=Judgement.UNREACHABLE,
            expected=expected,
            detail=str(error),
            known=known,
        )
    return judge(row, expected, found, known)


def _stored_key(ssh: Entity) -> SshPublicKey | SshFingerprint | None:
    if ssh.get("public_key"):
        return SshPublicKey.parse(ssh["public_key"])
    return SshFingerprint.parse(ssh["fingerprint"]) if ssh.get("fingerprint") else None


def show_review(console: Console, reviews: Iterable[Review]) -> None:
    """Print the one table: at a terminal drawn, elsewhere in plain columns."""
    if console.is_terminal:
        console.print(_table(reviews, console.width), "")
        return
    for review in reviews:
        keys: tuple[str, ...] = ()
        if review.judgement not in (Judgement.THERE, Judgement.CONFLICT):
            keys = (
                f"expected {_fingerprint(review.expected) or 'nothing'}",
                f"found {', '.join(map(_described, review.found)) or 'nothing'}",
            )
        cells = (
            review.row.name,
            review.row.address,
            *keys,
            review.judgement.value,
            review.detail,
        )
        console.print(
            "  ".join(printable(cell) for cell in cells if cell),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _table(reviews: Iterable[Review], width: int) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, header_style="bold", leading=1, pad_edge=False, show_edge=False
    )
    # A fingerprint that is broken over two lines is hard to compare, a name is not.
    longest_name = max(_LEAST_WIDTH_OF_HOST, width - _WIDTH_OF_KEY - _GAP)
    table.add_column("Host", overflow="fold", max_width=longest_name)
    table.add_column("Judgement and SSH host keys", overflow="fold")
    for review in reviews:
        host = Text(printable(review.row.name), style="bold")
        host.append(f"\n{printable(review.row.address)}", style="not bold")
        table.add_row(host, _judged(review))
    return table


def _judged(review: Review) -> Text:
    style = _STYLES[review.judgement]
    text = Text(review.judgement.value, style=style)
    expected = _fingerprint(review.expected)
    if expected is not None:
        text.append(f"\n{'expected':<{_WIDTH_OF_TYPE}}{expected}", style="default")
    for key in review.found:
        text.append(f"\n{describe_key(key):<{_WIDTH_OF_TYPE}}{key.fingerprint()}", style=style)
    if review.detail:
        text.append(f"\n{printable(review.detail)}", style="default")
    return text


def _fingerprint(expected: SshFingerprint | SshPublicKey | None) -> SshFingerprint | None:
    return expected.fingerprint() if isinstance(expected, SshPublicKey) else expected


def _described(key: SshPublicKey) -> str:
    return f"{key.fingerprint()} {describe_key(key)}"
