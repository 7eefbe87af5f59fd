"""What is asked about lists of hosts, checked: which hosts, and which of them to add."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pkengine.engine.hosts import request
from pkengine.engine.hosts.agent_ways import check_way
from pkengine.engine.model import BatchRow, Host, NewHost, RowJudgement, RowOutcome, SshLogin
from pkengine.errors import BadRequest, PkengineError

#: A list has at most so many hosts.
MOST_ROWS = 10_000
_MOST_MISTAKES_TOLD = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStart:
    """What a request to add the hosts of a list says.

    Attributes:
        login: for all of them; what a row says of itself comes before it.
        names: those that are to be added; None means all whose key is the expected one.
        trust_on_first_use: add also those of which no key was given or known.
        parallel: how many at the same time.
    """

    login: SshLogin
    names: Collection[str] | None = None
    trust_on_first_use: bool = False
    activate: bool = True
    parallel: int = 8


def checked_rows(
    wanted: Sequence[NewHost], described: Callable[[NewHost], Host]
) -> list[BatchRow]:
    """Check a list by the rules for single hosts.

    Args:
        wanted: the hosts.
        described: gives the host that a request describes, or raises `PkengineError`.

    Raises:
        BadRequest: something is wrong; the sentence has what is, and where.
    """
    if not wanted:
        raise BadRequest("There is no host in the list.")
    if len(wanted) > MOST_ROWS:
        raise BadRequest(
            f"There are {len(wanted)} hosts in the list: expected at most {MOST_ROWS}. Make "
            "several lists of them."
        )
    rows: list[BatchRow] = []
    mistakes: list[str] = []
    first: Mapping[str, dict[str, int]] = defaultdict(dict)
    for number, new in enumerate(wanted, 1):
        try:
            host = described(new)
            request.checked_way(new.ssh.jumps or ())
            check_way(new.way)
            if new.ssh.password or any(jump.password for jump in new.ssh.jumps or ()):
                raise BadRequest("A password is not stored: give it when the list is started.")
        except PkengineError as error:
            mistakes.append(f"{number}: {error}")
            continue
        for what, value in (("name", host.name), ("address", host.address)):
            earlier = first[what].setdefault(value, number)
            if earlier != number:
                mistakes.append(f"{number}: The {what} {value} is that of host {earlier} already.")
        rows.append(BatchRow(number=number, wanted=replace(new, address=host.address)))
    if mistakes:
        told = mistakes[:_MOST_MISTAKES_TOLD]
        if len(mistakes) > len(told):
            told.append(f"… and {len(mistakes) - len(told)} more.")
        raise BadRequest("The list cannot be taken. Host " + " Host ".join(told))
    return rows


def chosen(rows: Sequence[BatchRow], start: BatchStart) -> list[BatchRow]:
    """Give the rows that a request confirms.

    Raises:
        BadRequest: a name is not in the list, or its key is not one to be confirmed.
    """
    acceptable = {RowJudgement.MATCH}
    if start.trust_on_first_use or start.names is not None:
        acceptable.add(RowJudgement.FIRST_USE)
    open_rows = [row for row in rows if row.outcome is not RowOutcome.ADDED]
    if start.names is None:
        return [row for row in open_rows if row.judgement in acceptable]
    by_name = {row.wanted.name: row for row in rows}
    for name in start.names:
        row = by_name.get(name)
        if row is None:
            raise BadRequest(f"There is no host {name[:100]!r} in the list.")
        if row.judgement not in acceptable:
            judgement = row.judgement.value if row.judgement else "not reviewed"
            raise BadRequest(
                f"Host {name} cannot be added: it was judged '{judgement}'. {row.detail}".rstrip()
            )
    return [row for row in open_rows if row.wanted.name in set(start.names)]
