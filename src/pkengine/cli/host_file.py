"""Reads a file of hosts to add: CSV with a line of names on top, or YAML.

All of a file is checked before anything is done, and every mistake is told with its line.
In YAML the texts are taken as they are written: a host may be called ``no`` or ``1e3``.
"""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.engine.hosts import request
from pkengine.engine.hosts.agent_ways import check_way, connection_of
from pkengine.engine.model import JumpHost, NewHost, SshLogin, WayChoice
from pkengine.errors import PkengineError
from pkengine.keys import SshFingerprint, SshPublicKey

_LARGEST = 16 * 1024 * 1024
_MOST_MISTAKES_SHOWN = 20

#: What a row may say, and what that is called in CSV's first line and as a key in YAML.
COLUMNS = (
    "name",
    "address",
    "ssh_port",
    "ssh_user",
    "fingerprint",
    "public_key",
    "jump",
    "connection",
    "mechanism",
    "port",
    "cluster",
    "comment",
    "description",
)
_SECRETS = frozenset({"password", "root_password", "ssh_password"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRow:
    """One host as the file has it; what is None is left to options and the engine.

    Attributes:
        line: where it begins in the file, from 1.
        address: in the one form by which the engine compares addresses.
        jumps: the machines on the way; empty is the direct one.
        port: of the agent.
    """

    line: int
    name: str
    address: str
    ssh_port: int | None = None
    ssh_user: str | None = None
    fingerprint: SshFingerprint | None = None
    public_key: SshPublicKey | None = None
    jumps: tuple[JumpHost, ...] | None = None
    port: int | None = None
    cluster: str | None = None
    comment: str | None = None
    description: str | None = None
    connection: str | None = None
    mechanism: str | None = None


class _Mistake(Exception):
    """Something is wrong with the file, at a line."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def read_hosts(path: str) -> list[HostRow]:
    """Read a file whose name ends in ``.csv``, ``.yaml`` or ``.yml``.

    Raises:
        CommandFailed: it cannot be read, or something in it is wrong; all that is wrong is
            told at once, each with file and line.
    """
    ending = Path(path).suffix.lower()
    if ending not in (".csv", ".yaml", ".yml"):
        raise CommandFailed(
            f"{path} is neither CSV nor YAML: expected a name that ends in .csv, .yaml or .yml.",
            ExitStatus.USAGE,
        )
    text = _text(path)
    mistakes: list[_Mistake] = []
    rows: list[HostRow] = []
    try:
        for line, cells in _csv(text) if ending == ".csv" else _yaml(text):
            try:
                rows.append(_row(line, cells))
            except PkengineError as error:
                mistakes.append(_Mistake(line, str(error)))
            except _Mistake as mistake:
                mistakes.append(mistake)
    except _Mistake as mistake:
        mistakes.append(mistake)
    mistakes += _duplicates(rows)
    if not rows and not mistakes:
        mistakes.append(_Mistake(1, "There is no host in the file."))
    if mistakes:
        raise CommandFailed(_told(path, mistakes), ExitStatus.USAGE)
    return rows


def _text(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            content = stream.read(_LARGEST + 1)
    except OSError as error:
        raise CommandFailed(f"Cannot read {path}: {error.strerror}.", ExitStatus.USAGE) from error
    if len(content) > _LARGEST:
        raise CommandFailed(f"{path} is larger than 16 MiB.", ExitStatus.USAGE)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CommandFailed(
            f"{path}:{line}: This is not UTF-8: save the file in that encoding.", ExitStatus.USAGE
        ) from error


def _told(path: str, mistakes: list[_Mistake]) -> str:
    mistakes = sorted(mistakes, key=lambda mistake: mistake.line)
    lines = [f"{path}:{mistake.line}: {mistake}" for mistake in mistakes[:_MOST_MISTAKES_SHOWN]]
    if len(mistakes) > _MOST_MISTAKES_SHOWN:
        lines.append(f"… and {len(mistakes) - _MOST_MISTAKES_SHOWN} more.")
    return "\n".join([*lines, "Nothing was sent to any host."])


# CSV (RFC 4180).


def _csv(text: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] | None = None
    end = 0
    try:
        for cells in reader:
            line, end = end + 1, reader.line_num
            if not any(cell.strip() for cell in cells) or cells[0].startswith("#"):
                continue
            if names is None:
                names = [cell.strip().lower() for cell in cells]
                _check_names(line, names)
                continue
            if len(cells) > len(names):
                raise _Mistake(
                    line,
                    f"Expected at most {len(names)} cells as in the first line, found "
                    f"{len(cells)}: a cell with a comma in it needs double quotes around it.",
                )
            yield line, dict(zip(names, cells, strict=False))
    except csv.Error as error:
        raise _Mistake(end + 1, f"This is not CSV: {error}.") from error


def _check_names(line: int, names: list[str]) -> None:
    for number, name in enumerate(names):
        _check_name(line, name, "column")
        if name in names[:number]:
            raise _Mistake(line, f"The column {name!r} is there twice.")
    for name in ("name", "address"):
        if name not in names:
            raise _Mistake(
                line,
                f"There is no column {name!r}: expected a first line such as "
                "'name,address,fingerprint', with commas.",
            )


def _check_name(line: int, name: str, what: str) -> None:
    if name in _SECRETS:
        raise _Mistake(
            line,
            f"A password does not belong into the file ({what} {name!r}): give the one for all "
            "hosts with --password-file or --ask-password, or use --use-engine-key.",
        )
    if name not in COLUMNS:
        raise _Mistake(line, f"Unknown {what} {name[:60]!r}: expected {', '.join(COLUMNS)}.")


# YAML.


def _yaml(text: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    import yaml

    try:
        # Composing makes no objects of what is in the file, and keeps the lines.
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _Mistake(
            mark.line + 1 if mark else 1, f"This is not YAML: {error.problem}."
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise _Mistake(1, f"This is not YAML that can be read: {error}") from error
    if root is None:
        return
    if isinstance(root, yaml.MappingNode) and [key.value for key, _ in root.value] == ["hosts"]:
        root = root.value[0][1]
    if not isinstance(root, yaml.SequenceNode):
        raise _Mistake(
            root.start_mark.line + 1,
            "Expected a list, '- name: web1' and so on, or such a list below 'hosts:'.",
        )
    for node in root.value:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.MappingNode):
            raise _Mistake(line, "Expected the keys of a host, such as 'name: web1'.")
        cells: dict[str, str] = {}
        for key, value in node.value:
            at = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
                raise _Mistake(at, "Expected one text or number for each key.")
            _check_name(at, key.value, "key")
            if key.value in cells:
                raise _Mistake(at, f"The key {key.value!r} is there twice.")
            is_null = value.tag == "tag:yaml.org,2002:null"
            cells[key.value] = "" if is_null else value.value
        yield line, cells


# What is in a row.


def _row(line: int, cells: Mapping[str, str]) -> HostRow:
    """Check a row by the rules of the engine itself.

    Raises:
        PkengineError, _Mistake: something is wrong in it.
    """
    filled = {name: cell.strip() for name, cell in cells.items() if cell.strip()}
    for name in ("name", "address"):
        if name not in filled:
            raise _Mistake(line, f"There is no {name}.")
    fingerprint, public_key = filled.get("fingerprint"), filled.get("public_key")
    row = HostRow(
        line=line,
        name=filled["name"],
        address=request.address(filled["address"]),
        ssh_port=_port(line, "ssh_port", filled),
        ssh_user=filled.get("ssh_user"),
        fingerprint=SshFingerprint.parse(fingerprint) if fingerprint else None,
        public_key=SshPublicKey.parse(public_key) if public_key else None,
        jumps=request.jump_hosts(filled["jump"]) if "jump" in filled else None,
        port=_port(line, "port", filled),
        cluster=filled.get("cluster"),
        comment=filled.get("comment"),
        description=filled.get("description"),
        connection=filled.get("connection"),
        mechanism=filled.get("mechanism"),
    )
    connection = connection_of(row.connection) if row.connection else None
    check_way(WayChoice(connection=connection, mechanism=row.mechanism))
    request.new_host(
        NewHost(
            name=row.name,
            address=row.address,
            comment=row.comment or "",
            description=row.description or "",
            ssh=SshLogin(
                user=row.ssh_user, fingerprint=row.fingerprint, public_key=row.public_key
            ),
        ),
        uuid.UUID(int=0),
    )
    return row


def _port(line: int, name: str, cells: Mapping[str, str]) -> int | None:
    text = cells.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535):
        raise _Mistake(line, f"The {name} {text[:20]!r} is no port: expected 1 to 65535.")
    return int(text)


def _duplicates(rows: list[HostRow]) -> Iterator[_Mistake]:
    for what in ("name", "address"):
        first: dict[str, int] = {}
        for row in rows:
            value = getattr(row, what)
            if value in first:
                yield _Mistake(row.line, f"The {what} {value} is in line {first[value]} already.")
            first.setdefault(value, row.line)
