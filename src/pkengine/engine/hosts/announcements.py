"""The events about hosts: their codes, severities and sentences."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager

from pkengine.auth.channel_binding import DIRECT, PROXIED, UNKNOWN
from pkengine.auth.peer import PeerKey
from pkengine.engine.events import EventCode, Events
from pkengine.engine.hosts.lifecycle import Trigger
from pkengine.engine.model import (
    Event,
    Host,
    HostKeySource,
    HostSsh,
    Invitation,
    KeyChange,
    Origin,
    Severity,
)
from pkengine.keys import SshFingerprint, SshPublicKey

_KEY_SOURCES = {
    HostKeySource.GIVEN_FINGERPRINT: "as the given fingerprint says",
    HostKeySource.GIVEN_KEY: "the one that was given",
    HostKeySource.KNOWN_HOSTS: "the one that was known for its address",
    HostKeySource.CERTIFICATE: "vouched for by a certificate of an authority",
    HostKeySource.DNS: "as DNS says, vouched for by DNSSEC",
    HostKeySource.FIRST_USE: "trusted on first use: compare it with the one on its console",
    HostKeySource.APPROVED: "the one that was approved",
    HostKeySource.PROVED: "the one that it had proved by the one before",
}

_PATHS = {
    DIRECT: "TLS goes from end to end between Host {host} and the engine.",
    PROXIED: "A proxy ends TLS between Host {host} and the engine.",
    UNKNOWN: "Whether a proxy ends TLS between Host {host} and the engine is unknown.",
}

_SEEN = {
    Trigger.ANSWERED: (
        EventCode.HOST_STATUS_CHANGED,
        Severity.NORMAL,
        "Status of Host {host} was set to Up.",
    ),
    Trigger.LOST: (
        EventCode.HOST_CONNECTING,
        Severity.WARNING,
        "Host {host} does not answer; connecting again. {detail}",
    ),
    Trigger.GRACE_ENDED: (
        EventCode.HOST_NON_RESPONSIVE,
        Severity.ERROR,
        "Host {host} is non responsive. {detail}",
    ),
    Trigger.UNFIT: (
        EventCode.HOST_NON_OPERATIONAL,
        Severity.ERROR,
        "Host {host} is non operational. {detail}",
    ),
}


class Announcements:
    """Composes events that are written together with the change that they tell of."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def refusal(
        self, code: EventCode, verb: str, host: Host, origin: Origin
    ) -> AbstractAsyncContextManager[None]:
        """Write that something was not done to a host, and why, where an error says so."""
        what = f"Failed to {verb} Host {host.name}."
        return self._events.telling_refusal(code, what, origin, host=host)

    def added(self, host: Host, origin: Origin) -> Event:
        """A host is known now; by which key, and why that is trusted."""
        key, source = host.ssh.public_key, host.ssh.key_source
        if key is None or source is None:
            raise ValueError("A host is added after its SSH host key was judged.")
        severity = Severity.WARNING if source is HostKeySource.FIRST_USE else Severity.NORMAL
        text = (
            f"Host {host.name} was added{_by(origin)}. Its SSH host key is {key.key_type} "
            f"{key.fingerprint()}, {_KEY_SOURCES[source]}."
        )
        return self._events.draft(EventCode.HOST_ADDED, severity, text, host=host, origin=origin)

    def installing(self, host: Host, origin: Origin) -> Event:
        """An installation begins."""
        return self._normal(
            EventCode.HOST_INSTALLING, f"Installing Host {host.name}.", host, origin
        )

    def installed(self, host: Host, key: PeerKey, origin: Origin) -> Event:
        """The agent runs and has proved its key."""
        text = (
            f"Host {host.name} was installed. Its agent has version {host.agent_version} "
            f"and the key {key}."
        )
        return self._normal(EventCode.HOST_INSTALLED, text, host, origin)

    def install_failed(self, host: Host, reason: str, origin: Origin | None = None) -> Event:
        """An installation ended without success."""
        text = f"Host {host.name} installation failed. {reason}"
        return self._events.draft(
            EventCode.HOST_INSTALL_FAILED, Severity.ERROR, text, host=host, origin=origin
        )

    def key_refused(self, host: Host, reason: str, origin: Origin) -> Event:
        """The engine's SSH key was put on a host, and does not let it in there."""
        text = (
            f"Host {host.name} was installed, but later installations and upgrades will need a "
            f"password. {reason}"
        )
        return self._warning(EventCode.ENGINE_KEY_REFUSED, text, host, origin)

    def engine_key_rotated(self, host: Host, fingerprint: SshFingerprint, origin: Origin) -> Event:
        """The new SSH key of the engine gets in on a host, and the old one no longer."""
        text = (
            f"Host {host.name} has the new SSH key of this engine, {fingerprint}, and the old one "
            "no longer."
        )
        return self._normal(EventCode.ENGINE_KEY_ROTATED, text, host, origin)

    def engine_key_kept(self, host: Host, reason: str, origin: Origin) -> Event:
        """The SSH key of the engine could not be replaced on a host."""
        text = f"The SSH key of this engine was not replaced on Host {host.name}. {reason}"
        return self._warning(EventCode.ENGINE_KEY_ROTATION_FAILED, text, host, origin)

    def updated(self, host: Host, differences: Sequence[str], origin: Origin) -> Event:
        """Somebody changed what is stored."""
        what = "; ".join(differences)
        text = f"Host {host.name} configuration was updated{_by(origin)}: {what}."
        return self._normal(EventCode.HOST_UPDATED, text, host, origin)

    def registered(self, host: Host, origin: Origin) -> Event:
        """A host says of itself that it is one; whether that is so, nobody has proved."""
        text = (
            f"Host {host.name} at {host.address} registered itself from {origin.address} with the "
            f"SSH fingerprint {host.ssh.fingerprint or 'unknown'}. It proved nothing of that, and "
            "waits for approval."
        )
        return self._events.draft(
            EventCode.HOST_REGISTERED, Severity.WARNING, text, host=host, origin=origin
        )

    def joined(self, host: Host, invitation: Invitation, origin: Origin) -> Event:
        """A host has proved the code of an invitation, and its own key."""
        [key] = host.keys
        then = (
            "The invitation had approved it."
            if invitation.is_approved
            else "It waits for approval, and until then its key is good for nothing else."
        )
        text = (
            f"Host {host.name} joined from {origin.address} by invitation {invitation.number} of "
            f"{invitation.user}, and has the key {key.key} for mechanism '{key.mechanism}'. {then}"
        )
        return self._warning(EventCode.HOST_JOINED, text, host, origin)

    def join_undone(self, host: Host, reason: str, origin: Origin) -> Event:
        """A host that had joined did not confirm that, so it is forgotten again."""
        text = f"Host {host.name} did not confirm that it has joined, and is forgotten. {reason}"
        return self._warning(EventCode.HOST_JOIN_FAILED, text, host, origin)

    def approved(self, host: Host, origin: Origin) -> Event:
        """Somebody decided to trust a host that registered itself or joined by a code."""
        key = host.ssh.public_key
        text = (
            f"Host {host.name} was approved{_by(origin)}. Its SSH host key is "
            f"{key.key_type} {key.fingerprint()}."
            if key is not None
            else f"Host {host.name} was approved{_by(origin)}."
        )
        return self._normal(EventCode.HOST_APPROVED, text, host, origin)

    def kept(
        self, code: EventCode, host: Host, text: str, origin: Origin, *, failed: bool = False
    ) -> Event:
        """Something was done to keep an agent in order, or tried."""
        severity = Severity.ERROR if failed else Severity.NORMAL
        return self._events.draft(code, severity, text, host=host, origin=origin)

    def way_changing(self, host: Host, wanted: Host, origin: Origin) -> Event:
        """Another way to connect, or a fresh key, is about to be tried."""
        text = (
            f"Host {host.name} shall connect by {_way(wanted)}, as was asked for{_by(origin)}; so "
            f"far it does by {_way(host)}."
        )
        return self._normal(EventCode.WAY_CHANGING, text, host, origin)

    def way_changed(self, before: Host, host: Host, origin: Origin) -> Event:
        """The host connects by another way, or by a fresh key; the one before is gone."""
        text = (
            f"Host {host.name} connects by {_way(host)} with the key {_keys(host)}, as was asked "
            f"for{_by(origin)}. Before, it did by {_way(before)}."
        )
        return self._normal(EventCode.WAY_CHANGED, text, host, origin)

    def way_not_changed(self, host: Host, wanted: Host, reason: str, origin: Origin) -> Event:
        """Another way to connect was tried, and it did not work."""
        text = f"Host {host.name} does not connect by {_way(wanted)}. {reason}"
        return self._events.draft(
            EventCode.WAY_NOT_CHANGED, Severity.ERROR, text, host=host, origin=origin
        )

    def way_settled(self, before: Host, host: Host, is_next: bool) -> Event:
        """The host has come, and so it is known which of two ways is the one."""
        code = EventCode.WAY_CHANGED if is_next else EventCode.WAY_NOT_CHANGED
        text = (
            f"Host {host.name} has come by {_way(host)} with the key {_keys(host)}, which ends "
            f"the change that was under way; before, it came by {_way(before)}."
        )
        return self._normal(code, text, host, Origin())

    def activating(self, host: Host, origin: Origin) -> Event:
        """The host is to be used again."""
        text = f"Activation of Host {host.name} was initiated{_by(origin)}."
        return self._normal(EventCode.HOST_ACTIVATING, text, host, origin)

    def in_maintenance(self, host: Host, origin: Origin) -> Event:
        """The host is used no more; why, its status detail says."""
        why = f" ({host.status_detail})" if host.status_detail else ""
        text = f"Host {host.name} was switched to Maintenance mode{_by(origin)}{why}."
        return self._normal(EventCode.HOST_MAINTENANCE, text, host, origin)

    def removed(self, host: Host, farewell: str, origin: Origin) -> Event:
        """The host is forgotten; `farewell` says what its agent knows of that."""
        text = f"Host {host.name} was removed{_by(origin)}. {farewell}".strip()
        return self._normal(EventCode.HOST_REMOVED, text, host, origin)

    def key_change_found(self, host: Host, change: KeyChange, origin: Origin) -> Event:
        """The host shows other SSH keys than the stored one."""
        found = ", ".join(map(_described, change.new_keys))
        text = (
            f"Host {host.name} at {change.seen_at} shows another SSH host key, so "
            f"'{change.operation}'{_by(origin)} was refused before any credential was sent. "
            f"Expected {_described_stored(host.ssh)}, found {found}. Approve the change by the "
            "fingerprint that the host's console shows, or reject it."
        )
        return self._alert(EventCode.KEY_CHANGE_FOUND, text, host, origin)

    def way_refused(self, host: Host, refusal: str, origin: Origin) -> Event:
        """A machine on the way to a host shows a key that must not be trusted."""
        text = f"The way to Host {host.name} was refused{_by(origin)}. {refusal}"
        return self._alert(EventCode.KEY_CHANGE_FOUND, text, host, origin)

    def key_missing(self, host: Host, refusal: str, origin: Origin) -> Event:
        """The host does not show its stored SSH key, and what else it has is not known."""
        text = f"Host {host.name} does not show its stored SSH host key. {refusal}"
        return self._alert(EventCode.KEY_CHANGE_FOUND, text, host, origin)

    def key_change_approved(
        self, host: Host, change: KeyChange, key: SshPublicKey, origin: Origin
    ) -> Event:
        """An administrator accepts the key that was found."""
        text = (
            f"The SSH host key {_described(key)} of Host {host.name}, found at {change.seen_at}, "
            f"was approved{_by(origin)}. It takes the place of {_old(change)}."
        )
        return self._warning(EventCode.KEY_CHANGE_APPROVED, text, host, origin)

    def key_change_rejected(self, host: Host, change: KeyChange, origin: Origin) -> Event:
        """An administrator does not accept what was found."""
        found = ", ".join(map(_described, change.new_keys))
        text = (
            f"The SSH host keys found at {change.seen_at} in place of that of Host {host.name} "
            f"were rejected{_by(origin)}: {found}. The stored one stays, {_old(change)}."
        )
        return self._normal(EventCode.KEY_CHANGE_REJECTED, text, host, origin)

    def key_change_settled(self, host: Host, origin: Origin) -> Event:
        """What was pending has ended, because the host shows its stored key again."""
        text = (
            f"Host {host.name} shows its stored SSH host key again, so its pending key change "
            "is closed. Another machine may have answered at its address meanwhile."
        )
        return self._warning(EventCode.KEY_CHANGE_SETTLED, text, host, origin)

    def key_rotated(self, host: Host, old: HostSsh, origin: Origin) -> Event:
        """The host shows another key in place of the stored one, and something vouches for it."""
        source = host.ssh.key_source
        assert source is not None
        text = (
            f"The SSH host key of Host {host.name} was rotated: was {_described_stored(old)}, is "
            f"{_described_stored(host.ssh)}, {_KEY_SOURCES[source]}."
        )
        return self._normal(EventCode.HOST_KEY_ROTATED, text, host, origin)

    def keys_learnt(self, host: Host, before: Collection[SshPublicKey], origin: Origin) -> Event:
        """The host has proved, on a connection by its stored key, which keys it has."""
        now = host.ssh.proved_keys
        parts = [
            f"{verb} {', '.join(map(_described, keys))}"
            for verb, keys in (
                ("has also", [key for key in now if key not in before]),
                ("has no more", [key for key in before if key not in now]),
            )
            if keys
        ]
        text = f"By its SSH host key, Host {host.name} proved that it {' and '.join(parts)}."
        return self._normal(EventCode.HOST_KEYS_LEARNT, text, host, origin)

    def key_replaced(self, host: Host, old: HostSsh, origin: Origin) -> Event:
        """Another SSH key was given with a request and takes the place of the stored one."""
        text = (
            f"The SSH host key of Host {host.name} was replaced{_by(origin)}: was "
            f"{_described_stored(old)}, is {_described_stored(host.ssh)}."
        )
        return self._warning(EventCode.HOST_KEY_REPLACED, text, host, origin)

    def seen(self, host: Host, trigger: Trigger, detail: str) -> Event:
        """Monitoring has seen something."""
        code, severity, text = _SEEN[trigger]
        text = text.format(host=host.name, detail=detail).strip()
        return self._events.draft(code, severity, text, host=host)

    def path_found(self, host: Host, before: str) -> Event:
        """The agent answered, and it is another matter than before whether a proxy is between."""
        text = _PATHS.get(host.tls_path, _PATHS[UNKNOWN]).format(host=host.name)
        was = f" Before, it was {before}." if before else ""
        severity = Severity.NORMAL if host.tls_path == DIRECT else Severity.WARNING
        return self._events.draft(EventCode.TLS_PATH_CHANGED, severity, text + was, host=host)

    def path_refused(self, host: Host, path: str, address: str) -> Event:
        """An agent came by a path on which TLS does not go from end to end."""
        return self._events.draft(
            EventCode.AGENT_BEHIND_PROXY_REFUSED,
            Severity.ERROR,
            f"The agent of Host {host.name} came from {address} and is refused: the TLS path is "
            f"{path}, and a direct one is required. Remove the proxy that ends TLS, or no longer "
            "require a direct path.",
            host=host,
        )

    def _normal(self, code: EventCode, text: str, host: Host, origin: Origin) -> Event:
        return self._events.draft(code, Severity.NORMAL, text, host=host, origin=origin)

    def _warning(self, code: EventCode, text: str, host: Host, origin: Origin) -> Event:
        return self._events.draft(code, Severity.WARNING, text, host=host, origin=origin)

    def _alert(self, code: EventCode, text: str, host: Host, origin: Origin) -> Event:
        return self._events.draft(code, Severity.ALERT, text, host=host, origin=origin)


def _way(host: Host) -> str:
    return f"'{host.connection.value}' and '{host.mechanism}'"


def _keys(host: Host) -> str:
    return ", ".join(str(key.key) for key in host.keys)


def _by(origin: Origin) -> str:
    return f" by {origin.user}" if origin.user else ""


def _described(key: SshPublicKey) -> str:
    return f"{key.key_type} {key.fingerprint()}"


def _described_stored(ssh: HostSsh) -> str:
    return _described(ssh.public_key) if ssh.public_key else f"a key with {ssh.fingerprint}"


def _old(change: KeyChange) -> str:
    if change.old_key is None:
        return f"a key with {change.old_fingerprint}"
    return _described(change.old_key)
