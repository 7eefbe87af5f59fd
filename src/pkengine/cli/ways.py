"""The way to a host, as the commands say it: through which jump hosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from pkengine.cli.login import read_password
from pkengine.cli.rest_client import Entity
from pkengine.engine.hosts.request import jump_hosts
from pkengine.engine.model import JumpHost
from pkengine.errors import BadRequest
from pkengine.keys import Secret, SshFingerprint


@dataclass(frozen=True, slots=True)
class Jump:
    """A machine on the way, and what is said about it.

    Attributes:
        fingerprint: of its key; None leaves it to what the engine knows.
        password: None logs in with the engine's own SSH key.
    """

    host: JumpHost
    fingerprint: SshFingerprint | None = None
    password: Secret | None = None

    def entity(self) -> Entity:
        """Give the ``jump_host`` element of a request."""
        user: Entity = {"user_name": self.host.user}
        if self.password is not None:
            user["password"] = self.password.reveal_text()
        jump: Entity = {"address": self.host.address, "port": self.host.port, "user": user}
        if self.fingerprint is not None:
            jump["fingerprint"] = str(self.fingerprint)
        return jump


#: The machines between the engine and a host, the one next to the engine first.
Way = tuple[Jump, ...]


def read_way(
    text: str | None, fingerprints: Sequence[SshFingerprint], password_file: str | None
) -> Way | None:
    """Give the way that options say; None leaves it as it is, and ``none`` is the direct one.

    Raises:
        click.UsageError: the options do not go together, or are malformed.
        CommandFailed: the password cannot be read.
    """
    if text is None:
        if fingerprints or password_file:
            raise click.UsageError("Say with --jump which jump host is meant.")
        return None
    try:
        hosts = jump_hosts(text)
    except BadRequest as error:
        raise click.UsageError(str(error)) from None
    if fingerprints and len(fingerprints) != len(hosts):
        raise click.UsageError(
            f"Give --jump-fingerprint once for each jump host: expected {len(hosts)} of them, "
            f"found {len(fingerprints)}."
        )
    if password_file and len(hosts) != 1:
        raise click.UsageError(
            "Give --jump-password-file where there is one jump host: into several of them let the "
            "engine's SSH key."
        )
    password = read_password(password_file) if password_file else None
    way = tuple(Jump(host, password=password) for host in hosts)
    pairs = zip(way, fingerprints or (None,) * len(way), strict=True)
    return tuple(replace(jump, fingerprint=fingerprint) for jump, fingerprint in pairs)


def way_entity(way: Way) -> Any:
    """Give the ``jump_hosts`` element of a request."""
    return {"jump_host": [jump.entity() for jump in way]}


def stored_way(ssh: Entity) -> Way:
    """Give the way that the engine has stored for a host."""
    jumps = (ssh.get("jump_hosts") or {}).get("jump_host") or []
    return tuple(
        Jump(JumpHost(jump["address"], int(jump["port"]), jump["user"]["user_name"]))
        for jump in jumps
    )
