"""What the host commands do: finding, adding, and following a host to its goal."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.jobs import POLL_INTERVAL_S, JobWatch, Progress
from pkengine.cli.rest_client import Entity, RestClient, items
from pkengine.cli.ways import Way, way_entity
from pkengine.keys import Secret, SshFingerprint, SshPublicKey

#: How long a deployment may take before the command stops waiting for it.
DEFAULT_WAIT_S = 600.0

_KEY_REFUSED = 13201  # see the event codes of the engine
_FAILURES = frozenset({"install_failed", "non_operational", "error"})
_UUID_LENGTH = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class SshAccess:
    """What the user says about the way into a host; None is left to the engine.

    Attributes:
        password: None to log in with the engine's own SSH key.
        way: the machines on the way; empty is the direct one.
        key_agent: the relay to an ssh-agent that signs; beside it the password is sudo's.
    """

    port: int | None = None
    user: str | None = None
    fingerprint: SshFingerprint | None = None
    public_key: SshPublicKey | None = None
    password: Secret | None = None
    way: Way | None = None
    key_agent: str | None = None

    def entity(self) -> Entity:
        """Give the ``ssh`` element of a request."""
        user: Entity = {}
        if self.user is not None:
            user["user_name"] = self.user
        if self.password is not None:
            user["password"] = self.password.reveal_text()
        is_by_key = self.password is None or self.key_agent is not None
        ssh: Entity = {"authentication_method": "publickey" if is_by_key else "password"}
        if self.key_agent is not None:
            ssh["key_agent"] = self.key_agent
        if user:
            ssh["user"] = user
        if self.port is not None:
            ssh["port"] = self.port
        if self.fingerprint is not None:
            ssh["fingerprint"] = str(self.fingerprint)
        if self.public_key is not None:
            ssh["public_key"] = str(self.public_key)
        if self.way is not None:
            ssh["jump_hosts"] = way_entity(self.way)
        return ssh


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key that is shown at an address.

    Attributes:
        standing: ``known``, ``unknown``, ``mismatch`` or ``revoked``.
        source: what vouches for a known one, such as ``certificate``.
    """

    key: SshPublicKey
    standing: str = "unknown"
    source: str = ""


async def list_hosts(client: RestClient, search: str | None = None) -> list[Entity]:
    """Give the hosts that an oVirt search expression such as ``status=up`` finds."""
    answer = await client.get("/hosts", **({"search": search} if search else {}))
    return items(answer, "host")


async def find_host(client: RestClient, name_or_id: str) -> Entity:
    """Give the one host with that name or id.

    Raises:
        CommandFailed: there is none.
    """
    if len(name_or_id) == _UUID_LENGTH and name_or_id.count("-") == 4:
        try:
            return await client.get(f"/hosts/{name_or_id}")
        except CommandFailed as error:
            if error.status is not ExitStatus.NOT_FOUND:
                raise
    # The name is compared here, so that no character in it is taken for a search operator.
    for host in await list_hosts(client):
        if host.get("name") == name_or_id:
            return host
    raise CommandFailed(f"There is no host {name_or_id!r}.", ExitStatus.NOT_FOUND)


async def fetch_host_keys(
    client: RestClient, address: str, port: int, way: Way | None = None
) -> list[FoundKey]:
    """Ask the engine which keys the SSH server at an address shows; none is trusted by that."""
    if way:
        ssh = {"port": port, "jump_hosts": way_entity(way)}
        answer = await client.post("/sshkeys", {"address": address, "ssh": ssh})
    else:
        answer = await client.get("/sshkeys", address=address, port=port)
    return [
        FoundKey(
            SshPublicKey.parse(entry["public_key"]),
            entry.get("standing") or "unknown",
            entry.get("key_source") or "",
        )
        for entry in items(answer, "ssh_key")
    ]


def describe_key(key: SshPublicKey) -> str:
    """Name the kind of a key as ``ssh-keygen -l`` does."""
    if key.key_type.startswith("ecdsa"):
        return "ECDSA"
    return {"ssh-ed25519": "ED25519", "ssh-rsa": "RSA", "ssh-dss": "DSA"}.get(
        key.key_type, key.key_type
    )


async def add_host(
    client: RestClient,
    name: str,
    address: str,
    ssh: SshAccess,
    *,
    agent_way: Entity | None = None,
    agent_port: int | None = None,
    cluster: str | None = None,
    comment: str | None = None,
    description: str | None = None,
    activate: bool = True,
) -> Entity:
    """Ask the engine to add a host; its deployment goes on after this returns.

    What is None is left to the engine; `agent_way` is of `agent_way_entity`.

    Raises:
        CommandFailed: the engine could not reach it, log in to it, or refused its key; no
            host was made then.
    """
    body: Entity = {"name": name, "address": address, "ssh": ssh.entity(), **(agent_way or {})}
    if agent_port is not None:
        body["port"] = agent_port
    if cluster is not None:
        body["cluster"] = {"name": cluster}
    if comment is not None:
        body["comment"] = comment
    if description is not None:
        body["description"] = description
    return await client.post("/hosts", body, activate=_boolean(activate), reboot="false")


async def act(client: RestClient, host: Entity, action: str, **details: Any) -> Entity:
    """Begin an action on a host, such as ``activate``."""
    return await client.post(f"/hosts/{host['id']}/{action}", details)


async def wait_for_host(
    client: RestClient,
    host: Entity,
    goals: Collection[str],
    *,
    since_event: int,
    progress: Progress | None = None,
    timeout_s: float = DEFAULT_WAIT_S,
) -> Entity:
    """Follow a host, and the job that works on it, until it is where it should be.

    The wait ends when its status is one of `goals`.  Events after `since_event` may explain
    a failure.

    Raises:
        CommandFailed: the host ended elsewhere, or did not arrive in time.
    """
    clock = IReactorTime(client.reactor)
    deadline = clock.seconds() + timeout_s
    watch = JobWatch(client, host["id"], progress)
    while True:
        await watch.update()
        now = await client.get(f"/hosts/{host['id']}")
        status = str(now.get("status"))
        if status in goals:
            await watch.update()
            return now
        if status in _FAILURES:
            await watch.update()
            raise CommandFailed(
                await _why(client, now, since_event)
                or now.get("status_detail")
                or f"Host {now['name']!r} ended in status {status}."
            )
        if clock.seconds() >= deadline:
            raise CommandFailed(
                f"Host {now['name']!r} is still {status} after {timeout_s:g} s; the engine goes "
                "on. 'pkengine events --follow' shows how it ends."
            )
        await deferLater(clock, POLL_INTERVAL_S)


async def newest_event(client: RestClient) -> int:
    """Give the index of the newest event."""
    events = items(await client.get("/events", max=1), "event")
    return max((event_index(event) for event in events), default=0)


def event_index(event: Entity) -> int:
    """Give the number that orders events."""
    return int(event.get("index") or event["id"])


async def key_refusal(client: RestClient, host: Entity, since_event: int) -> str | None:
    """Tell why the engine's SSH key does not get in on a host that was installed, or None."""
    events = await _events_about(client, host, since_event)
    code = str(_KEY_REFUSED)
    return next((event["description"] for event in events if str(event.get("code")) == code), None)


async def _why(client: RestClient, host: Entity, since_event: int) -> str | None:
    reasons = [
        event["description"]
        for event in await _events_about(client, host, since_event)
        if event.get("severity") in ("error", "alert")
    ]
    return reasons[-1] if reasons else None


async def _events_about(client: RestClient, host: Entity, since_event: int) -> list[Entity]:
    events = items(await client.get("/events", **{"from": since_event, "max": 50}), "event")
    return [
        event
        for event in sorted(events, key=event_index)
        if event.get("host", {}).get("id") == host["id"] and event.get("description")
    ]


def _boolean(value: bool) -> str:
    return "true" if value else "false"
