"""A small agent for the tests of deployments: it starts, listens and fails as it is told.

It stands for the real one where only its process matters.  Its parts are the same as those of
a real bundle: the commands are the installed ones, and only the folder of packages differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from pathlib import Path

from pkengine.engine.deployment.bundle import AgentBundle
from pkengine.engine.deployment.deployment import Expect, Initialized
from pkengine.keys import Pin
from pkengine.platform import Platform

#: What the small agent's key is said to be.
PIN = Pin(hashlib.sha256(b"the small agent").digest())

_MAIN = f"""\
import json, os, socket, sys, time
command, arguments = sys.argv[1], sys.argv[2:]
def option(name):
    return arguments[arguments.index(name) + 1]
if command == "check":
    CHECK
elif command == "pkagent":
    state = option("--state")
    os.makedirs(state, 0o700, exist_ok=True)
    open(os.path.join(state, "agent.key"), "a").close()
    lines = [line for o, line in zip(arguments, arguments[1:]) if o == "--engine"]
    open(os.path.join(state, "authorized_engines"), "w").write("\\n".join([*lines, ""]))
    print(json.dumps({{"pin": "{PIN}", "uuid": "1-2-3", "version": "VERSION"}}))
elif command == "twistd":
    START
    listening = socket.create_server(("127.0.0.1", int(option("--listen"))))
    if os.fork():
        sys.exit(0)
    os.setsid()
    for descriptor in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    open(option("--pidfile"), "w").write(str(os.getpid()))
    time.sleep(600)
"""


def proving(verify: Callable[[Pin], Awaitable[object]]) -> Expect:
    """Give what a deployment expects an agent with, from what proves its pin."""

    @contextlib.asynccontextmanager
    async def expect(agent: Initialized) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        async def prove() -> None:
            await verify(Pin.parse(agent.pin))

        yield prove

    return expect


def small_bundle(
    directory: Path,
    version: str = "1",
    *,
    check: str = "pass",
    start: str = "pass",
    platform: Platform | None = None,
) -> AgentBundle:
    """Make a bundle of the small agent.

    Args:
        directory: where the archive goes.
        version: makes one bundle unlike another.
        check: Python that runs when the host checks the version.
        start: Python that runs before the agent listens.
        platform: what it needs, in place of this interpreter's.
    """
    main = _MAIN.replace("CHECK", check).replace("START", start).replace("VERSION", version)
    command = (resources.files("pkengine.engine.deployment") / "bundle_command.sh").read_bytes()
    content = {"bin/pkagent": command, "bin/twistd": command, "lib/__main__.py": main.encode()}
    return pack(directory, content, platform or Platform.of_this_process(), version)


def pack(
    directory: Path, content: dict[str, bytes], platform: Platform, version: str
) -> AgentBundle:
    """Pack files as a bundle."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, octets in content.items():
            member = tarfile.TarInfo(name)
            member.mode, member.size = 0o755, len(octets)
            archive.addfile(member, io.BytesIO(octets))
    octets = buffer.getvalue()
    digest = hashlib.sha256(octets).hexdigest()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{digest}.tar.gz"
    path.write_bytes(octets)
    return AgentBundle(
        path=path,
        hash=digest,
        sha256=digest,
        size=len(octets),
        installed_size=sum(map(len, content.values())),
        platform=platform,
        versions={"pkengine": version},
    )
