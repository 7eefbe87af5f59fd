"""Adding a host: pkengine beside a script of ssh-keyscan, scp and ssh.

    python benchmarks/add_host.py [--rounds N]

Both bring the same archive, the agent's, to the same OpenSSH server on the loopback, which
runs as the current user with a home of its own, and both end with the archive unpacked into a
folder of its own and a link that leads there:

    script    ssh-keyscan and a comparison of the fingerprint; scp; ssh, which checks the
              SHA-256, unpacks with tar and sets the link
    pkengine  the same by one connection: judge the host key, log in, probe, upload, install

"whole" goes on in both ways with what follows on the host until the service could start: load
the new version, make the host's key and write the engine's, let the engine's SSH key in.
Starting the service is in neither.  The host's files are in memory (/dev/shm), because some
hundred new files cost both the same on a disk, and as much as that disk is busy.  Rounds
alternate, so that whatever else the machine does meets both; medians are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import shlex
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from pkengine.auth.peer import TrustedPeer
from pkengine.auth.trust import format_trust_line
from pkengine.engine.deployment.bundle import AgentBundle, build_bundle
from pkengine.engine.deployment.deployment import (
    DeploymentPlan,
    Exchange,
    interpreter_for,
    steps_before_start,
)
from pkengine.engine.deployment.layout import OWN_FOLDER, SYSTEM_LAYOUT
from pkengine.engine.deployment.steps import Progress
from pkengine.engine.deployment.target import DeploymentHost
from pkengine.keys import Pin, SshPublicKey
from pkengine.ssh import (
    HostKeyPolicy,
    SshConnection,
    SshCredentials,
    SshIdentity,
    SshTarget,
    connect_ssh,
)

ADDRESS = "127.0.0.1"
ENGINE = TrustedPeer("engine", Pin(b"e" * 32))
GOAL = 0.4
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None

SCRIPT = """\
set -eu
ssh-keyscan -p "$PORT" -t ed25519 "$ADDRESS" >"$WORK/known_hosts" 2>/dev/null
test "$(ssh-keygen -lf "$WORK/known_hosts" | cut -d ' ' -f 2)" = "$FINGERPRINT"
options="-F none -i $KEY -o IdentitiesOnly=yes -o UserKnownHostsFile=$WORK/known_hosts"
scp -q $options -P "$PORT" "$ARCHIVE" "$LOGIN@$ADDRESS:$HOST_HOME/agent.tar.gz"
ssh $options -p "$PORT" "$LOGIN@$ADDRESS" "$ON_HOST"
"""
ON_HOST = """\
set -eu
cd {home}
echo "{sha256}  agent.tar.gz" | sha256sum -c --quiet
version={folder}/versions/{hash}
mkdir -p "$version"
tar -xzf agent.tar.gz -C "$version" --no-same-owner
ln -s "$(readlink -f /usr/bin/{python})" "$version/bin/python3"
ln -s "versions/{hash}" {folder}/current.new
mv -T {folder}/current.new {folder}/current
rm agent.tar.gz
"""
ON_HOST_WHOLE = """\
"$version/bin/python3" -I -S "$version/lib" check
{folder}/current/bin/pkagent init --json --state {folder}/state --engine {engine} >/dev/null
echo {authorized} >>{folder}/authorized_keys
"""


class Server:
    """An OpenSSH server for the current user."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.identity = SshIdentity.load_or_create(folder / "identity")
        self.private_key = folder / "identity/id_ed25519"
        self.port = _free_port()
        self._folder = folder

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run it; as root, sshd also wants a folder of the system's."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        host_key = self._folder / "host_key"
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host_key]
        subprocess.run(keygen, check=True)
        (self._folder / "authorized_keys").write_text(self.identity.authorized_keys_line + "\n")
        (self._folder / "sshd_config").write_text(
            f"ListenAddress {ADDRESS}:{self.port}\nHostKey {host_key}\nPidFile none\n"
            f"AuthorizedKeysFile {self._folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
            f"PasswordAuthentication no\nSetEnv HOME={self.home}\n"
            "Subsystem sftp internal-sftp\n"
        )
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or "sshd"
        command = [sshd, "-D", "-e", "-f", str(self._folder / "sshd_config")]
        with (self._folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as it:
            try:
                _wait_for(self.port)
                yield
            finally:
                it.terminate()

    def empty(self) -> None:
        """Make the host fresh."""
        shutil.rmtree(self.home, ignore_errors=True)
        (self.home / OWN_FOLDER).mkdir(parents=True)

    @property
    def host_key(self) -> SshPublicKey:
        return SshPublicKey.parse((self._folder / "host_key.pub").read_text())

    def check(self, bundle: AgentBundle) -> None:
        """Check that the agent is there, whoever brought it."""
        current = self.home / OWN_FOLDER / "current"
        assert current.resolve().name == bundle.hash
        assert (current / "lib/pkengine/agent/service.py").stat().st_size > 0


def script(server: Server, bundle: AgentBundle, work: Path, *, whole: bool) -> None:
    """Do it the usual way."""
    on_host = (ON_HOST + (ON_HOST_WHOLE if whole else "")).format(
        sha256=bundle.sha256,
        hash=bundle.hash,
        home=server.home,
        folder=server.home / OWN_FOLDER,
        python=bundle.python_tag.replace("cpython-3", "python3."),
        engine=shlex.quote(format_trust_line(ENGINE)),
        authorized=shlex.quote(server.identity.authorized_keys_line),
    )
    environment = {
        "PATH": os.environ["PATH"],
        "ADDRESS": ADDRESS,
        "PORT": str(server.port),
        "LOGIN": getpass.getuser(),
        "HOST_HOME": str(server.home),
        "KEY": str(server.private_key),
        "FINGERPRINT": str(server.host_key.fingerprint()),
        "ARCHIVE": str(bundle.path),
        "WORK": str(work),
        "ON_HOST": on_host,
    }
    subprocess.run(["/bin/sh", "-c", SCRIPT], env=environment, check=True)


async def pkengine(reactor: Any, server: Server, bundle: AgentBundle, *, whole: bool) -> None:
    """Do it as the engine does."""
    connection = await connect_ssh(
        reactor,
        SshTarget(ADDRESS, server.port, getpass.getuser()),
        HostKeyPolicy(given=server.host_key.fingerprint()),
        SshCredentials(keys=(server.identity.private_key,)),
    )
    plan = DeploymentPlan(
        bundle=bundle,
        authorized_key=server.identity.authorized_keys_line,
        agent_port=54321,
    )
    await _bring(connection, plan, whole=whole)
    await connection.close()


async def _bring(connection: SshConnection, plan: DeploymentPlan, *, whole: bool) -> None:
    """Run the deployment up to where the service would start."""
    host = DeploymentHost(connection, SYSTEM_LAYOUT, Progress(lambda _: None))
    facts, place = await host.probe()
    python = interpreter_for(plan, facts, place)
    steps = steps_before_start(plan, Exchange((ENGINE,)), place)
    if not whole:
        steps = {name: steps[name] for name in ("upload", "install")}
    await host.perform(python, place, steps, plan.bundle)


async def main(reactor: Any, rounds: int) -> None:
    with contextlib.ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="pkengine-bench-", dir=MEMORY)
        folder = Path(stack.enter_context(temporary))
        bundle = build_bundle(folder / "bundles")
        print(f"the archive has {bundle.size:,} octets, unpacked {bundle.installed_size:,}")
        server = Server(folder)
        stack.enter_context(server.running())
        times: dict[tuple[bool, str], list[float]] = {}
        for number in range(rounds + 1):
            for whole in (False, True):
                for name in ("script", "pkengine"):
                    server.empty()
                    began = time.perf_counter()
                    if name == "script":
                        script(server, bundle, folder, whole=whole)
                    else:
                        await pkengine(reactor, server, bundle, whole=whole)
                    took = time.perf_counter() - began
                    server.check(bundle)
                    if number:  # the first round warms up
                        times.setdefault((whole, name), []).append(took)
        report(times)


def report(times: dict[tuple[bool, str], list[float]]) -> None:
    for whole, what in ((False, "moved and unpacked"), (True, "whole")):
        one, other = (statistics.median(times[whole, name]) for name in ("script", "pkengine"))
        ratio = statistics.median(
            ours / theirs
            for ours, theirs in zip(times[whole, "pkengine"], times[whole, "script"], strict=True)
        )
        goal = "" if whole else f"  goal <= {GOAL}"
        print(
            f"{what:18s}  script {one * 1e3:5.0f} ms  pkengine {other * 1e3:5.0f} ms  "
            f"ratio {ratio:.2f}{goal}"
        )


def _free_port() -> int:
    with socket.create_server((ADDRESS, 0)) as found:
        port: int = found.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection((ADDRESS, port)).close()
            return
        time.sleep(0.02)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, parser.parse_args().rounds)))
