"""Trust stores: whose keys one end accepts, in memory or in a file.

A trust file has one key a line, in the manner of ``authorized_keys``::

    # the engines of the data centre
    sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU= name=engine-1 # old key
    sha256//RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o= name=engine-2 expires=2027-01-01T00:00:00Z
    kid//0b9f4e2d7c1a48e5a3d6f80912b7c4de name=engine-3 mechanism=hmac

What stands in front is the pin of a public key, or the id of a secret that both share.
While a peer changes from one mechanism to another, both are named: ``mechanism=pin,sign``.

The file is looked at whenever a key is looked up, and once a second while connections
depend on it.  A file with a malformed line is not applied at all: what was in force stays
in force, and the log names the file and the line.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from pkengine.auth.peer import PeerKey, TrustedPeer, parse_peer_key
from pkengine.errors import InvalidKeyText, TrustFileError
from pkengine.interfaces import ITrustStore
from pkengine.keys.files import write_atomically

_log = Logger()

#: How often a watched store looks for changes of its file and for expired records.
REFRESH_S = 1.0

#: More than the clock of any local file system takes for one step.
_TICK_NS = 20_000_000

_WORD = re.compile(r"[!-\"$-~]{1,255}")  # printable ASCII without space and '#'
_OPTIONS = ("name", "mechanism", "expires")
_TIME_FORM = "%Y-%m-%dT%H:%M:%SZ"

Clock = Callable[[], datetime.datetime]


def utc_now() -> datetime.datetime:
    """Give the time of day, with its time zone."""
    return datetime.datetime.now(datetime.timezone.utc)


# Lines.


def parse_trust_line(line: str) -> TrustedPeer | None:
    """Read one line of a trust file; None where it is empty or only a comment.

    Raises:
        TrustFileError: it is malformed; the text does not know which line of which file.
    """
    content, _, comment = line.partition("#")
    words = content.split()
    if not words:
        return None
    try:
        key = parse_peer_key(words[0])
    except InvalidKeyText as error:
        raise TrustFileError(str(error)) from error
    options: dict[str, str] = {}
    for word in words[1:]:
        option, equals, value = word.partition("=")
        if option not in _OPTIONS or not equals or option in options:
            raise TrustFileError(
                f"The option {word!r} is unknown, has no value or stands there twice: "
                f"expected each of {', '.join(_OPTIONS)} at most once, as KEY=VALUE."
            )
        if not _WORD.fullmatch(value):
            raise TrustFileError(
                f"The value of {option!r} is {value!r}: expected 1 to 255 printable ASCII "
                "characters without spaces and '#'."
            )
        options[option] = value
    if "name" not in options:
        raise TrustFileError(f"The key {key} has no name: add name=NAME behind it.")
    return TrustedPeer(
        name=options["name"],
        key=key,
        mechanisms=_parse_mechanisms(options.get("mechanism", "pin")),
        expires=_parse_time(options["expires"]) if "expires" in options else None,
        comment=comment.strip(),
    )


def _parse_mechanisms(text: str) -> frozenset[str]:
    names = text.split(",")
    if "" in names or len(set(names)) != len(names):
        raise TrustFileError(
            f"The value of 'mechanism' is {text!r}: expected a name such as pin, or several, each "
            "once, with a comma between them."
        )
    return frozenset(names)


def _parse_time(text: str) -> datetime.datetime:
    try:
        naive = datetime.datetime.strptime(text, _TIME_FORM)
    except ValueError as error:
        raise TrustFileError(
            f"The time {text!r} is malformed: expected UTC such as 2027-01-01T00:00:00Z."
        ) from error
    return naive.replace(tzinfo=datetime.timezone.utc)


def format_trust_line(peer: TrustedPeer) -> str:
    """Write a record as the line that `parse_trust_line` reads, without a line end.

    Raises:
        TrustFileError: the name, mechanism or comment cannot stand in a line.
    """
    words = [str(peer.key), f"name={peer.name}"]
    mechanisms = ",".join(sorted(peer.mechanisms))
    if mechanisms != "pin":
        words.append(f"mechanism={mechanisms}")
    if peer.expires is not None:
        words.append(
            "expires=" + peer.expires.astimezone(datetime.timezone.utc).strftime(_TIME_FORM)
        )
    if peer.comment:
        words.append(f"# {peer.comment}")
    line = " ".join(words)
    if len(line.splitlines()) != 1:
        raise TrustFileError(f"The comment of {peer.key} has more than one line.")
    parsed = parse_trust_line(line)
    if parsed is None or (parsed.name, parsed.mechanisms) != (peer.name, peer.mechanisms):
        raise TrustFileError(
            f"The name {peer.name!r} and the mechanism {mechanisms!r} cannot stand in "
            "a trust file: expected printable ASCII without spaces and '#', and no comma in the "
            "name of a mechanism."
        )
    return line


# Stores.


@implementer(ITrustStore)
class MemoryTrustStore:
    """A trust store in memory.

    Args:
        peers: what is accepted at first.
        clock: gives the time of day, for records that expire.
    """

    def __init__(self, peers: Iterable[TrustedPeer] = (), *, clock: Clock = utc_now) -> None:
        self._clock = clock
        self._accepted: dict[PeerKey, TrustedPeer] = {}
        self._next_expiry: datetime.datetime | None = None
        self._watchers: dict[object, Callable[[PeerKey], None]] = {}
        self._watch_loop: LoopingCall | None = None
        self._replace({peer.key: peer for peer in peers})

    def lookup(self, key: PeerKey) -> TrustedPeer | None:
        """Give the record of a key, or None where the key is not (or no longer) accepted."""
        self.refresh()
        return self._accepted.get(key)

    def peers(self) -> Iterable[TrustedPeer]:
        """Give every record that is accepted now."""
        self.refresh()
        return tuple(self._accepted.values())

    def add(self, peer: TrustedPeer) -> None:
        """Accept a key; a record with the same key is replaced."""
        self.refresh()
        if peer.key in self._accepted or peer.expires is not None:
            self._replace({**self._accepted, peer.key: peer})
        else:  # by a new key nobody loses trust, and there may be thousands
            self._accepted[peer.key] = peer

    def remove(self, key: PeerKey) -> None:
        """Accept a key no longer; its live connections close at once.

        Raises:
            KeyError: the key was not accepted.
        """
        self.refresh()
        if key not in self._accepted:
            raise KeyError(key)
        self._replace({known: peer for known, peer in self._accepted.items() if known != key})

    def watch(
        self, callback: Callable[[PeerKey], None], clock: IReactorTime
    ) -> Callable[[], None]:
        """Ask to be called with each key that loses trust; see `ITrustStore.watch`."""
        token = object()
        self._watchers[token] = callback
        if self._watch_loop is None:
            self._watch_loop = LoopingCall(self.refresh)
            self._watch_loop.clock = clock
            self._watch_loop.start(REFRESH_S, now=False).addErrback(
                lambda failure: _log.failure("Trust is not watched any more", failure)
            )
        return partial(self._unwatch, token)

    def _unwatch(self, token: object) -> None:
        self._watchers.pop(token, None)
        if not self._watchers and self._watch_loop is not None:
            self._watch_loop.stop()
            self._watch_loop = None

    def refresh(self) -> None:
        """Notice what has changed by itself: here, that records have expired."""
        if self._next_expiry is not None and self._next_expiry <= self._clock():
            self._replace(self._accepted)

    def _replace(self, peers: dict[PeerKey, TrustedPeer]) -> None:
        """Put these records in force, except the expired, and tell who lost trust."""
        before, now = self._accepted, self._clock()
        self._accepted = {
            key: peer for key, peer in peers.items() if peer.expires is None or peer.expires > now
        }
        self._next_expiry = min(
            (peer.expires for peer in self._accepted.values() if peer.expires is not None),
            default=None,
        )
        for key, peer in before.items():
            after = self._accepted.get(key)
            if after is None or after.name != peer.name or peer.mechanisms - after.mechanisms:
                self._announce(key)

    def _announce(self, key: PeerKey) -> None:
        for callback in tuple(self._watchers.values()):
            with _log.failuresHandled("While withdrawing trust from {key}", key=key):
                callback(key)


class FileTrustStore(MemoryTrustStore):
    """A trust store in a file, reloaded when the file changes.

    A file that does not exist accepts nobody.

    Args:
        path: the file; it must not be writable by group or others.
        clock: gives the time of day, for records that expire.

    Raises:
        TrustFileError: the file is malformed, unreadable or too open now.  When that
            happens later, the log says so and what was in force stays in force.
    """

    def __init__(self, path: Path, *, clock: Clock = utc_now) -> None:
        super().__init__(clock=clock)
        self._path = path
        self._signature = _signature(path)
        #: What is wrong with the file now, as it was logged.
        self._trouble = ""
        self._replace(_read_trust_file(path))

    def refresh(self) -> None:
        """Notice that the file has changed, and that records have expired."""
        signature = _signature(self._path)
        if signature != self._signature:
            self._signature = signature
            try:
                peers = _read_trust_file(self._path)
            except TrustFileError as error:
                self._report(str(error))
            else:
                self._trouble = ""
                self._replace(peers)
        super().refresh()

    def _report(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            _log.error(
                "The trust file {path} is not applied, what was in force stays: {reason}",
                path=str(self._path),
                reason=trouble,
            )

    def add(self, peer: TrustedPeer) -> None:
        """Accept a key, and write its line; the line of the same key is replaced.

        Raises:
            TrustFileError: the file is malformed, or the record cannot stand in a line.
            KeyFileError: the file cannot be written.
        """
        line = format_trust_line(peer)
        with _locked(self._path):
            kept = [old for old, key in _numbered_keys(self._path) if key != peer.key]
            self._write([*kept, line])

    def remove(self, key: PeerKey) -> None:
        """Accept a key no longer, and take its line out of the file.

        Raises:
            KeyError: the key was not accepted.
            TrustFileError: the file is malformed.
            KeyFileError: the file cannot be written.
        """
        with _locked(self._path):
            lines = _numbered_keys(self._path)
            if all(key != other for _, other in lines):
                raise KeyError(key)
            self._write([line for line, other in lines if other != key])

    def _write(self, lines: list[str]) -> None:
        content = "".join(line + "\n" for line in lines)
        write_atomically(self._path, content.encode("utf-8"))
        self.refresh()


def _signature(path: Path) -> tuple[int, ...] | None:
    """Give what differs when the file has changed."""
    try:
        found = path.stat()
    except OSError as error:
        return None if isinstance(error, FileNotFoundError) else (error.errno or 0,)
    # Two changes within one tick of the file system's clock have one time: a file that
    # changed just now is taken for changed again, until that tick is over.
    now = time.time_ns()
    unsettled = now if abs(now - found.st_ctime_ns) < _TICK_NS else 0
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns,
            unsettled)  # fmt: skip


def _read_trust_file(path: Path) -> dict[PeerKey, TrustedPeer]:
    return {peer.key: peer for _, peer in _parse_file(path) if peer is not None}


def _numbered_keys(path: Path) -> list[tuple[str, PeerKey | None]]:
    return [(line, peer.key if peer is not None else None) for line, peer in _parse_file(path)]


def _parse_file(path: Path) -> list[tuple[str, TrustedPeer | None]]:
    """Read every line, with its record where it has one."""
    parsed: list[tuple[str, TrustedPeer | None]] = []
    seen: dict[PeerKey, int] = {}
    for number, line in enumerate(_read_lines(path), start=1):
        try:
            peer = parse_trust_line(line)
            if peer is not None and seen.setdefault(peer.key, number) != number:
                raise TrustFileError(f"The key {peer.key} stands in line {seen[peer.key]} too.")
        except TrustFileError as error:
            raise TrustFileError(f"{path}, line {number}: {error}") from error
        parsed.append((line, peer))
    return parsed


def _read_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            if mode & 0o022:
                raise TrustFileError(
                    f"The file {path} has mode {mode:04o}, so other users may add keys: "
                    f"expected 0600 or 0644. Run: chmod go-w {path}"
                )
            octets = stream.read()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TrustFileError(f"Cannot read {path}: {error.strerror}.") from error
    lines = []
    for number, line in enumerate(octets.splitlines(), start=1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise TrustFileError(f"{path}, line {number}: expected UTF-8.") from error
    return lines


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes that change the file out, so that no change is lost."""
    try:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise TrustFileError(f"Cannot open the folder {path.parent}: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
