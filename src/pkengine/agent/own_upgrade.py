"""The replacement of this agent by another version, over the channel of an engine.

Theory of operation.  An engine sends the archive piece by piece, has it checked, and has it
started; then this agent ends and the other one confirms what the engine says to it::

    engine                 agent
    Upgrade.begin    -->   says where it would go, and how much of the archive is there
    Upgrade.send …   -->   keeps each piece in a private file
    Upgrade.check    -->   compares the hash; only then unpacks, and loads the version
    Upgrade.start    -->   lets a process that outlives it start the version on trial
                           the new version dials in
    Upgrade.confirm  -->   tells that process, which puts the version in use

Nothing but the last of it changes what runs when the host restarts; see
`pkengine.on_host.trial`.  One archive is received at a time, by the engine that began last
unless the connection of another one is still at it.  What a broken connection leaves is gone on
with when the same archive comes again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from pkengine.agent.installation import UNIT_NAME, Installation, find_installation
from pkengine.agent.own_steps import OwnSteps, Step
from pkengine.agent.state import StateFolder
from pkengine.channel import Channel
from pkengine.channel.verbs import (
    MAX_PIECE,
    BeginUpgrade,
    ConfirmUpgrade,
    SendPiece,
    StartUpgrade,
    UpgradePlace,
    UpgradeStatus,
)
from pkengine.errors import AgentError, ChannelClosed
from pkengine.on_host.trial_record import GIVEN_UP, KEPT, TRYING, TrialRecord
from pkengine.platform import Platform

_UNPACK_S = 120.0
_CHECK_S = 60.0
#: How much longer than the trial its process may take: it stops and starts agents.
_GRACE_S = 120.0
_KEEPING_S = 20.0
_LOOK_EACH_S = 0.1


class OwnUpgrade:
    """At most one replacement at a time.

    Args:
        reactor: gives time, threads and processes.
        state: the agent's state folder.
        bundle: the hash of the version that runs, or empty.
        listen: where the agent listens.
        steps: has steps performed on this host.
        find: sees how this agent was installed.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        state: StateFolder,
        bundle: str,
        listen: str,
        *,
        steps: OwnSteps | None = None,
        find: Callable[[Path, str], Installation] = find_installation,
    ) -> None:
        self._reactor = reactor
        self._state = state.directory
        self._bundle = bundle
        self._listen = listen
        self._steps = steps or OwnSteps(reactor)
        self._find = find
        self._record = TrialRecord(str(state.directory))
        self._archive = Path(self._record.folder) / "archive"
        self._incoming: _Incoming | None = None
        self._timer: IDelayedCall | None = None

    # The life of the agent.

    def begin_watch(self) -> None:
        """Look at what the agent before this one left, and end what nobody else ends."""
        note = self._record.read()
        if note is None or note["outcome"] != TRYING:
            return
        if note["bundle"] != self._bundle:
            if not self._record.is_watched():
                reason = "the host restarted during the trial."
                self._record.note(note["bundle"], GIVEN_UP, reason)
            return
        left_s = max(0.0, note["until"] - self._reactor.seconds()) + _GRACE_S
        self._timer = self._reactor.callLater(left_s, self._trial_is_over)

    def stop(self) -> None:
        """Begin nothing any more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _trial_is_over(self) -> None:
        note = self._record.read()
        if note is None or note["outcome"] != TRYING or self._record.is_watched():
            return
        self._log.error("Nobody has ended the trial of this version: it is given up")
        giving_up = Deferred.fromCoroutine(self._give_up())
        giving_up.addErrback(
            lambda failure: self._log.failure("Giving up this version failed", failure)
        )

    async def _give_up(self) -> None:
        place = await self._place()
        parameters = {
            "prefix": place.prefix,
            "state": str(self._state),
            "bundle": self._bundle,
            "port": self._port() or 1,
            "unit": _unit(place, ""),
        }
        await self._steps.leave(place, ("give_up", _GRACE_S, parameters))

    # The verbs.

    async def begin(self, request: BeginUpgrade, channel: Channel) -> UpgradePlace:
        """Get ready for an archive.

        Raises:
            AgentError: this agent cannot replace itself, or is at it for another engine.
        """
        self._require_free(channel)
        place = await self._place()
        self._require_free(channel)
        self._record.prepare()
        received = 0
        if self._incoming is not None and self._incoming.request == request:
            received = self._received()
        else:
            self._archive.unlink(missing_ok=True)
        self._incoming = _Incoming(request, channel, place)
        self._log.info(
            "{name} begins to upgrade this agent to {bundle}, {size} octets, {received} of them "
            "here",
            name=channel.peer_name,
            bundle=request.bundle,
            size=request.size,
            received=received,
        )
        return UpgradePlace(
            prefix=place.prefix,
            state=str(self._state),
            service=place.service,
            port=self._port(),
            platform=Platform.of_this_process(),
            free=_free_at(place.prefix),
            received=received,
            is_installed=(Path(place.prefix) / "versions" / request.bundle).is_dir(),
        )

    def send(self, piece: SendPiece, channel: Channel) -> int:
        """Keep the next octets of the archive; give how many are there.

        Raises:
            AgentError: they are not the next ones, or too many, or there is no room.
        """
        incoming = self._require_begun(channel)
        received = self._received()
        if piece.offset != received:
            raise AgentError(
                f"The next piece of the archive begins at {received}, not at {piece.offset}."
            )
        end = received + len(piece.octets)
        if not piece.octets or len(piece.octets) > MAX_PIECE or end > incoming.request.size:
            raise AgentError(
                f"A piece of {len(piece.octets)} octets at {received} does not fit an archive of "
                f"{incoming.request.size}, or has more than {MAX_PIECE}."
            )
        try:
            with open(self._archive, "ab", opener=_private) as archive:
                archive.write(piece.octets)
        except OSError as error:
            self._archive.unlink(missing_ok=True)
            raise AgentError(f"Cannot write {self._archive}: {error.strerror}.") from error
        return end

    async def check(self, channel: Channel) -> None:
        """Unpack the archive if it is the expected one, and load the version in it.

        Raises:
            AgentError: it is another one, or does not run here; nothing has changed.
        """
        incoming = self._require_begun(channel)
        incoming.require_idle()
        incoming.is_busy = True
        try:
            await self._check(incoming)
        finally:
            incoming.is_busy = False
        incoming.is_checked = True
        self._log.info(
            "Version {bundle} is unpacked and loads: {name}",
            bundle=incoming.request.bundle,
            name=channel.peer_name,
        )

    async def _check(self, incoming: _Incoming) -> None:
        request, place = incoming.request, incoming.place
        version = {"prefix": place.prefix, "bundle": request.bundle}
        steps: list[Step] = [("check", _CHECK_S, version)]
        archive = None
        if not (Path(place.prefix) / "versions" / request.bundle).is_dir():
            archive = self._archive
            if await self._in_thread(self._digest) != request.sha256:
                archive.unlink(missing_ok=True)
                raise AgentError(
                    f"The archive that came is not the one with SHA-256 {request.sha256}: "
                    "upgrade the host again."
                )
            measure = {"size": request.size, "sha256": request.sha256}
            steps.insert(0, ("upload", _UNPACK_S, version | measure))
        await self._steps.perform(place, steps, archive)
        self._archive.unlink(missing_ok=True)

    async def start(self, request: StartUpgrade, channel: Channel) -> None:
        """Let the version run on trial; this agent ends when that begins.

        Raises:
            AgentError: it was not checked, or the process that does it cannot be started.
        """
        incoming = self._require_begun(channel)
        incoming.require_idle()
        place, bundle = incoming.place, incoming.request.bundle
        if not incoming.is_checked:
            raise AgentError(f"Version {bundle} was not checked yet.")
        if (place.service == "systemd") != (request.unit is not None):
            raise AgentError(f"This agent runs under {place.service}.")
        self._log.warn(
            "Version {bundle} is started on trial, for {timeout} s: {name}",
            bundle=bundle,
            timeout=request.timeout_s,
            name=channel.peer_name,
        )
        parameters = {
            "prefix": place.prefix,
            "state": str(self._state),
            "bundle": bundle,
            "port": request.port,
            "unit": _unit(place, request.unit or ""),
            "command": place.command,
            "timeout_s": request.timeout_s,
        }
        incoming.is_busy = True
        try:
            until = self._reactor.seconds() + request.timeout_s
            self._record.note(bundle, TRYING, until=until)
            await self._steps.leave(place, ("try", request.timeout_s + _GRACE_S, parameters))
        except AgentError as error:
            self._record.note(bundle, GIVEN_UP, str(error))
            raise
        finally:
            incoming.is_busy = False

    async def confirm(self, request: ConfirmUpgrade, channel: Channel) -> None:
        """Put this version in use, because the engine has met it.

        Raises:
            AgentError: it is not the one on trial, or nobody is there to do it.
        """
        note = self._record.read()
        if note is None or note["bundle"] != self._bundle or request.bundle != self._bundle:
            raise AgentError(f"Version {request.bundle} does not run on trial here.")
        if note["outcome"] == KEPT:
            return
        if not self._record.is_watched():
            raise AgentError("What watched the trial of this version has ended.")
        self._record.confirm(self._bundle)
        self._log.warn(
            "Version {bundle} is confirmed: {name}", bundle=self._bundle, name=channel.peer_name
        )
        for _ in range(int(_KEEPING_S / _LOOK_EACH_S)):
            if self.status().outcome != TRYING:
                break
            await deferLater(self._reactor, _LOOK_EACH_S)
        status = self.status()
        if status.outcome != KEPT:
            raise AgentError(status.reason or "The version was not put in use in time.")

    def status(self) -> UpgradeStatus:
        """Tell which version was tried last, and what became of it."""
        note = self._record.read()
        if note is None:
            return UpgradeStatus()
        return UpgradeStatus(note["bundle"], note["outcome"], note["reason"])

    # What they share.

    def _require_free(self, channel: Channel) -> None:
        if self._record.is_watched():
            raise AgentError("Another version is on trial: wait for the end of that.")
        other = self._incoming
        if other is not None:
            other.require_idle()
            name = other.channel.peer_name
            if not other.has_ended and name != channel.peer_name:
                raise AgentError(f"{name} is upgrading this agent just now: wait for the end.")

    def _require_begun(self, channel: Channel) -> _Incoming:
        incoming = self._incoming
        if incoming is None or incoming.channel is not channel:
            raise AgentError("No upgrade was begun on this connection.")
        return incoming

    def _place(self) -> Deferred[Installation]:
        return self._in_thread(lambda: self._find(self._state, self._bundle))

    def _port(self) -> int | None:
        return int(self._listen) if self._listen.isdecimal() else None

    def _received(self) -> int:
        try:
            return self._archive.stat().st_size
        except FileNotFoundError:
            return 0

    def _digest(self) -> str:
        digest = hashlib.sha256()
        try:
            with self._archive.open("rb") as archive:
                while octets := archive.read(1 << 20):
                    digest.update(octets)
        except FileNotFoundError:
            raise AgentError("Nothing of the archive has come.") from None
        return digest.hexdigest()

    def _in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)


class _Incoming:
    """An archive that an engine sends.

    Attributes:
        request: which one.
        channel: sends it.
        place: where it would go.
        is_busy: a process is at work on it.
        is_checked: it is unpacked, and the version in it loads.
        has_ended: the channel has.
    """

    def __init__(self, request: BeginUpgrade, channel: Channel, place: Installation) -> None:
        self.request = request
        self.channel = channel
        self.place = place
        self.is_busy = False
        self.is_checked = False
        self.has_ended = False

        def ended(reason: ChannelClosed) -> ChannelClosed:
            self.has_ended = True
            return reason

        channel.closed.addCallback(ended)

    def require_idle(self) -> None:
        """Refuse a second process.

        Raises:
            AgentError: one is at work.
        """
        if self.is_busy:
            raise AgentError(f"{self.channel.peer_name} is upgrading this agent just now.")


def _unit(place: Installation, text: str) -> dict[str, str] | None:
    if place.unit_path is None:
        return None
    return {"name": UNIT_NAME, "path": place.unit_path, "text": text}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _free_at(prefix: str) -> int:
    """Tell how much room there is for versions, also where their folder is not there yet."""
    folder = Path(prefix)
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
