"""SSH logins on hosts that are known, by the host key that is stored."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator

from pkengine.engine.hosts import request
from pkengine.engine.hosts.access import LoggedIn
from pkengine.engine.hosts.key_changes import KeyChanges
from pkengine.engine.hosts.operation_context import OperationContext
from pkengine.engine.hosts.proved_keys import learn_keys
from pkengine.engine.model import Host, Origin, SshLogin
from pkengine.errors import Conflict


class KnownLogins:
    """Logs in, and keeps what a host shows of its keys at that.

    Args:
        context: what operations on hosts share.
        key_changes: keep another key that a host shows.
    """

    def __init__(self, context: OperationContext, key_changes: KeyChanges) -> None:
        self._registry = context.registry
        self._ways = context.ways
        self._turns = context.turns
        self._key_changes = key_changes

    async def log_in(
        self, host: Host, login: SshLogin, operation: str, origin: Origin
    ) -> LoggedIn:
        """Log in for an operation that is named; another host key is for installing to accept.

        Raises:
            Conflict: another host key is given, or the host joined by a code and has no SSH.
            BadRequest, SshError: as for installing.
        """
        async with self._key_changes.noting(host, login, operation, origin):
            request.require_ssh(host)
            if request.with_login(host.ssh, login).public_key != host.ssh.public_key:
                raise Conflict(
                    f"Host {host.name} is known by another SSH host key: install it to change "
                    "that."
                )
            connection = await self._ways.log_in(host, login, origin)
        try:
            now = await self._key_changes.settle(host, connection.judgement, origin)
            await learn_keys(self._registry, now, connection, origin)
        except BaseException:
            await connection.close()
            raise
        return connection

    @contextlib.asynccontextmanager
    async def logged_in(
        self, host_id: uuid.UUID, verb: str, origin: Origin
    ) -> AsyncIterator[tuple[Host, LoggedIn]]:
        """Have a host alone, and be logged in there by the engine's key.

        Raises:
            NotFound: there is no such host.
            Conflict: another request is at work on it.
            SshError: it cannot be reached, shows another key, or refuses the login.
        """
        host = await self._registry.get(host_id)
        with self._turns.taking(verb, host.name, host_id):
            connection = await self.log_in(host, SshLogin(), verb, origin)
            try:
                yield host, connection
            finally:
                await connection.close()
