"""Learn a host's other SSH keys from the one that is trusted (OpenSSH's PROTOCOL §2.5).

The host signs the very connection on which its stored key was accepted with each of its
other keys.  When it shows one of them later in place of the stored one, because that was
rotated out, nobody needs to be asked.
"""

from __future__ import annotations

from dataclasses import replace

from twisted.logger import Logger

from pkengine.engine.hosts.access import LoggedIn
from pkengine.engine.hosts.registry import HostRegistry
from pkengine.engine.model import Event, Host, Origin
from pkengine.errors import SshError

#: OpenSSH answers at once; who does not know the question must not hold up an installation.
_TIMEOUT_S = 5.0
_log = Logger()


async def learn_keys(
    registry: HostRegistry, host: Host, connection: LoggedIn, origin: Origin
) -> None:
    """Store which other keys a host has proved, with an event where they are not as before.

    Args:
        registry: the hosts on disk.
        host: which one.
        connection: a login to it, by the key that is stored.
        origin: who asked for the login.
    """
    try:
        update = await connection.prove_host_keys(timeout_s=_TIMEOUT_S)
    except SshError as error:
        _log.warn("Learning the SSH keys of {host}: {reason}", host=host.name, reason=str(error))
        return
    if update is None:
        return
    own = connection.judgement.key
    proved = tuple(
        sorted(
            (key for key in update.keys if key != own), key=lambda key: (key.key_type, key.blob)
        )
    )
    before = host.ssh.proved_keys

    def learn(host: Host) -> Host:
        nonlocal before
        before = host.ssh.proved_keys
        if host.ssh.public_key != own:
            return host
        return replace(host, ssh=replace(host.ssh, proved_keys=proved))

    def tell(host: Host) -> list[Event]:
        if host.ssh.proved_keys == before:
            return []
        return [registry.announcements.keys_learnt(host, before, origin)]

    await registry.change(host.id, learn, tell)
