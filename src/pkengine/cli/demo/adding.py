"""The act in which a host is added by SSH, with its fingerprint and a password."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.conch.ssh.keys import Key

from pkengine.cli.demo import verification
from pkengine.cli.demo.dial_in_verification import agent_status, check_strange_agent, check_way
from pkengine.cli.demo.proxy import free_port
from pkengine.cli.demo.screen import Screen
from pkengine.cli.demo.ssh_host import USER, ThrowAwayHost
from pkengine.cli.demo.stage import Stage
from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.hosts import (
    SshAccess,
    add_host,
    describe_key,
    list_hosts,
    newest_event,
    wait_for_host,
)
from pkengine.cli.jobs import progress_display
from pkengine.cli.rest_client import Entity, RestClient
from pkengine.keys import SshPublicKey

HOST_NAME = "demo-host"


class Adding:
    """Adds a throw-away host to the engine, and fails to add another.

    Args:
        reactor: runs the host's SSH server.
        folder: for the host; it is made.
        stage: the engine.
        screen: shows it.
    """

    def __init__(self, reactor: Any, folder: Path, stage: Stage, screen: Screen) -> None:
        self._reactor = reactor
        self._stage = stage
        self._screen = screen
        folder.mkdir(mode=0o700)
        self._host = ThrowAwayHost(reactor, folder)
        self._agent_state = self._host.home / ".local/share/pkagent/state"

    async def introduce(self) -> None:
        """Start the host's SSH server, and tell of it."""
        self._host.listen()
        key = self._host.public_key
        self._screen.fact("SSH host", f"127.0.0.1 port {self._host.port}, user {USER}")
        self._screen.fact("its key", f"{key.fingerprint()} ({describe_key(key)})")

    async def play(self, client: RestClient) -> None:
        """Add the host, verify, and try a wrong fingerprint.

        Raises:
            CommandFailed: the host does not get `up`.
        """
        self._screen.head("Adding the host with its fingerprint and a password")
        entity = await self._add(client)
        self._screen.head("What was verified")
        await self._verify(entity)
        self._screen.head("Adding a host with a wrong fingerprint")
        await self._add_wrongly(client)

    async def stop(self) -> None:
        """Stop the SSH server."""
        await self._host.stop()

    async def _add(self, client: RestClient) -> Entity:
        since = await newest_event(client)
        added = await add_host(
            client,
            HOST_NAME,
            "127.0.0.1",
            self._access(self._host.public_key),
            agent_port=free_port(),
        )
        with progress_display(self._screen.console) as progress:
            host = await wait_for_host(
                client, added, ("up",), since_event=since, progress=progress
            )
        self._screen.done(f"{HOST_NAME} is {host['status']}")
        return host

    async def _verify(self, entity: Entity) -> None:
        screen, engine, agent = self._screen, self._stage.engine, self._agent_state
        screen.show([verification.check_host_key(entity, self._host)])
        screen.show(verification.check_keys(entity, engine.state, agent))
        if self._stage.setting.is_dialling_in:
            status = await agent_status(agent)
            screen.show(check_way(entity, status, self._stage))
            screen.show([await check_strange_agent(self._reactor, status, self._stage)])
        else:
            screen.show(
                await verification.check_connection(self._reactor, entity, engine.state, agent)
            )
            screen.show([await verification.check_stranger(self._reactor, entity, agent)])
        screen.show(
            [verification.check_secrets(self._host.password, engine.state, agent, engine.log)]
        )

    async def _add_wrongly(self, client: RestClient) -> None:
        other = Key(ed25519.Ed25519PrivateKey.generate()).public()
        before = len(self._host.visits)
        reason = None
        try:
            await add_host(
                client,
                "impostor",
                "localhost",
                self._access(SshPublicKey.from_blob(other.blob())),
            )
        except CommandFailed as error:
            if error.status is not ExitStatus.REFUSED:
                raise
            reason = str(error)
        hosts = await list_hosts(client)
        self._screen.show(verification.check_refusal(reason, self._host.visits[before:], hosts))

    def _access(self, key: SshPublicKey) -> SshAccess:
        return SshAccess(
            port=self._host.port,
            user=USER,
            fingerprint=key.fingerprint(),
            password=self._host.password,
        )
