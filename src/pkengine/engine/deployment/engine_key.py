"""The engine's SSH key on a host: whether it gets in, and how another one takes its place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from pkengine.engine.deployment.layout import SYSTEM_LAYOUT
from pkengine.engine.deployment.probe import Interpreter
from pkengine.engine.deployment.steps import Progress
from pkengine.engine.deployment.target import DeploymentHost
from pkengine.errors import PkengineError, SshError
from pkengine.ssh.authorized_keys import AuthorizedKey

if TYPE_CHECKING:
    from pkengine.ssh import SshConnection

#: Logs in by a key and nothing else, or raises `SshError`.
ProveKey = Callable[[], Awaitable[None]]
#: The same, and gives the connection, which is closed by whoever gets it.
LogInByKey = Callable[[], Awaitable["SshConnection"]]


class Authorized(msgspec.Struct, frozen=True):
    """What the step `authorize` says.

    Attributes:
        changed: whether the file is another one than before.
        seen_from: the address at which the host sees the engine, or empty.
        before: the engine's line that was there, or None.
    """

    changed: bool
    seen_from: str
    before: str | None

    @classmethod
    def of(cls, result: object) -> Authorized:
        """Read it."""
        return msgspec.convert(result, cls)

    def refusal(self, error: SshError) -> str:
        """Say that the key does not get in, though it is there."""
        text = f"Its authorized_keys has the engine's SSH key, which does not get in. {error}"
        if self.seen_from:
            text += (
                f" The host sees this engine at {self.seen_from}: a 'from=' in "
                "--authorized-keys-options has to let that in."
            )
        return text


async def try_key(
    prove_key: ProveKey, authorized: Authorized, host: DeploymentHost, python: Interpreter
) -> str:
    """Log in by the engine's key; where that fails, put back the line before and say why."""
    try:
        await prove_key()
    except SshError as error:
        refusal = authorized.refusal(error)
        if authorized.before is None:
            return refusal
        step = {"authorize": {"line": authorized.before}}
        await host.perform(python, None, step, is_shown=False)
        return f"{refusal} The engine's line that was there before was put back."
    return ""


async def replace_key(
    connection: SshConnection,
    line: str,
    *,
    old: str,
    keeps_options: bool,
    log_in: LogInByKey,
) -> None:
    """Let a new key of the engine in, prove that it gets in, and only then remove the old one.

    Whatever interrupts it, the old key or the new one gets in, and it may be done again.

    Args:
        connection: logged in by either key; it is not closed.
        line: the line with the new key.
        old: type and base64 of the old one.
        keeps_options: options that the line has on the host already stay on it.
        log_in: logs in by the new key alone.

    Raises:
        DeploymentError: the host refuses one of that; the old key gets in as before.
    """
    progress = Progress(lambda _: None)
    host = DeploymentHost(connection, SYSTEM_LAYOUT, progress)
    progress.begin("probe")
    try:
        facts = await host.look()
        if not facts.interpreters:
            raise SshError("there is no Python on the host that could edit authorized_keys.")
        python = facts.interpreters[0]
        step = {"line": line, "beside": old, "keeps_options": keeps_options}
        results = await host.perform(python, None, {"authorize": step})
        progress.begin("login")
        try:
            proved = await log_in()
        except SshError as error:
            raise SshError(Authorized.of(results["authorize"]).refusal(error)) from error
        try:
            last = DeploymentHost(proved, SYSTEM_LAYOUT, progress)
            await last.perform(python, None, {"deauthorize": {"keys": [old]}})
        finally:
            await proved.close()
    except PkengineError as error:
        raise progress.failed(error) from error


def forgetting(lines: Sequence[str]) -> dict[str, Any]:
    """Give what the step `deauthorize` is to remove: all lines of the engine's, by any name."""
    entries = [entry for line in lines if (entry := AuthorizedKey.parse(line))]
    return {"marker": entries[0].marker or None, "keys": [entry.key for entry in entries]}
