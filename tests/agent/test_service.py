"""A real agent, started as an administrator starts it, answers engines and commands."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import DatagramProtocol, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

import pkengine
from pkengine.agent.control_socket import connect_control_socket
from pkengine.agent.initialization import initialize
from pkengine.agent.state import StateFolder
from pkengine.auth.peer import TrustedPeer
from pkengine.channel.verbs import (
    GET_CAPABILITIES,
    GET_HARDWARE_INFO,
    GET_STATS,
    GET_VERSION,
    KEYS_ADD,
    KEYS_LIST,
    KEYS_REMOVE,
    PING,
    AcceptedKey,
    AddKey,
    AgentVersion,
    Capabilities,
    HardwareInfo,
    HostStats,
    RemoveKey,
)
from pkengine.errors import AuthenticationError, CallRefused
from pkengine.keys import KeyPair, Pin
from tests.agent.processes import LOOPBACK, connect_engine, pkagent, start_agent, twistd


class AgentTestCase(TestCase):
    """Has a state folder that accepts one engine."""

    def setUp(self) -> None:
        self.engine = KeyPair.generate("engine-1")
        self.state = StateFolder(Path(self.mktemp()))
        peer = TrustedPeer(name="engine-1", key=self.engine.pin)
        self.host = initialize(self.state, [peer])
        self.agent_pin = Pin.parse(self.host.pin)


class VerbsTests(AgentTestCase):
    async def test_every_verb_answers_an_accepted_engine(self) -> None:
        agent = start_agent(self, self.state.directory, PKAGENT_BUNDLE="0123abcd")
        channel = await connect_engine(self, self.engine, await agent.port, self.agent_pin)

        self.assertIsNone(await channel.call(PING))
        capabilities = await channel.call(GET_CAPABILITIES, result_type=Capabilities)
        self.assertEqual(capabilities.uuid, self.host.uuid)
        self.assertEqual(capabilities.hostname, os.uname().nodename)
        statistics = await channel.call(GET_STATS, result_type=HostStats)
        self.assertEqual(statistics.mem_total, capabilities.mem_size)
        await channel.call(GET_HARDWARE_INFO, result_type=HardwareInfo)
        version = await channel.call(GET_VERSION, result_type=AgentVersion)
        self.assertEqual(version.version, pkengine.__version__)
        self.assertEqual((version.pid, version.bundle), (agent.transport.pid, "0123abcd"))

        other = Pin(b"2" * 32)
        await channel.call(KEYS_ADD, AddKey(pin=str(other), name="engine-2", comment="spare"))
        listed = await channel.call(KEYS_LIST, result_type=list[AcceptedKey])
        self.assertEqual([key.name for key in listed], ["engine-1", "engine-2"])
        self.assertIn(
            f"{other} name=engine-2 # spare\n", self.state.authorized_engines.read_text()
        )
        removed = await channel.call(
            KEYS_REMOVE, RemoveKey(pin=str(other)), result_type=AcceptedKey
        )
        self.assertEqual(removed.name, "engine-2")
        self.assertNotIn(str(other), self.state.authorized_engines.read_text())

    async def test_wrong_calls_are_refused_with_a_sentence(self) -> None:
        agent = start_agent(self, self.state.directory)
        channel = await connect_engine(self, self.engine, await agent.port, self.agent_pin)
        own = str(self.engine.pin)
        for method, params, words in (
            ("Host.unheardOf", None, "Host.unheardOf"),
            (PING, {"surprise": 1}, "surprise"),
            (KEYS_ADD, {"pin": own}, "name"),
            (KEYS_ADD, {"pin": "x", "name": "y"}, "is not a pin"),
            (KEYS_ADD, {"pin": str(self.agent_pin), "name": "y"}, "own key"),
            (KEYS_ADD, {"pin": own, "name": ""}, "'name'"),
            (KEYS_REMOVE, {"pin": own}, "the last key"),
        ):
            error = await self.assertFailure(channel.call(method, params), CallRefused)
            self.assertIn(words, str(error))
        self.assertIsNone(await channel.call(PING))

    async def test_engine_whose_key_is_removed_is_cut_off_at_once(self) -> None:
        """Here by another engine, below by a command and by an editor."""
        agent = start_agent(self, self.state.directory)
        port = await agent.port
        first = await connect_engine(self, self.engine, port, self.agent_pin)
        new_key = KeyPair.generate("engine-2")
        await first.call(KEYS_ADD, AddKey(pin=str(new_key.pin), name="engine-2"))
        second = await connect_engine(self, new_key, port, self.agent_pin)
        await second.call(KEYS_REMOVE, RemoveKey(pin=str(self.engine.pin)))
        await first.closed
        await self.assertFailure(
            Deferred.fromCoroutine(connect_engine(self, self.engine, port, self.agent_pin)),
            AuthenticationError,
        )
        self.assertIsNone(await second.call(PING))


class CommandTests(AgentTestCase):
    def command(self, *arguments: str) -> Deferred[tuple[str, str, int]]:
        return Deferred.fromCoroutine(pkagent(*arguments, PKAGENT_STATE=str(self.state.directory)))

    async def test_status_tells_where_it_listens_and_who_is_connected(self) -> None:
        agent = start_agent(self, self.state.directory)
        port = await agent.port
        await connect_engine(self, self.engine, port, self.agent_pin)
        out, _, status = await self.command("status", "--json")
        self.assertEqual(status, 0)
        found = json.loads(out)
        self.assertEqual(found["listening"], [{"address": "127.0.0.1", "port": port}])
        self.assertEqual(found["pid"], agent.transport.pid)
        self.assertEqual((found["pin"], found["uuid"]), (self.host.pin, self.host.uuid))
        (connection,) = found["connections"]
        self.assertEqual(connection["name"], "engine-1")
        self.assertEqual(connection["pin"], str(self.engine.pin))
        out, _, _ = await self.command("status")
        self.assertIn(f"Listening   127.0.0.1:{port}\n", out)
        self.assertIn("Connected   engine-1 from 127.0.0.1:", out)

    async def test_removing_a_key_closes_its_connection(self) -> None:
        agent = start_agent(self, self.state.directory)
        channel = await connect_engine(self, self.engine, await agent.port, self.agent_pin)
        out, _, status = await self.command("keys", "remove", str(self.engine.pin))
        self.assertEqual((out, status), (f"Removed {self.engine.pin} of engine-1.\n", 0))
        await channel.closed
        await agent.says("engine-1 is disconnected")
        out, _, _ = await self.command("keys", "list")
        self.assertEqual(out, "No key is accepted.\n")

    async def test_adding_a_key_lets_its_engine_in(self) -> None:
        agent = start_agent(self, self.state.directory)
        port = await agent.port
        new_key = KeyPair.generate("engine-2")
        await self.assertFailure(
            Deferred.fromCoroutine(connect_engine(self, new_key, port, self.agent_pin)),
            AuthenticationError,
        )
        out, _, status = await self.command(
            "keys", "add", "--json", str(new_key.pin), "name=engine-2", "# spare"
        )
        self.assertEqual(status, 0)
        self.assertEqual(json.loads(out)["comment"], "spare")
        channel = await connect_engine(self, new_key, port, self.agent_pin)
        self.assertIsNone(await channel.call(PING))

    async def test_editing_the_file_is_as_good_as_a_command(self) -> None:
        agent = start_agent(self, self.state.directory)
        channel = await connect_engine(self, self.engine, await agent.port, self.agent_pin)
        self.state.authorized_engines.write_text("# nobody\n")
        await channel.closed

    async def test_refusal_of_the_agent_is_printed_and_fails(self) -> None:
        agent = start_agent(self, self.state.directory)
        await agent.ready
        unknown = str(Pin(b"9" * 32))
        out, err, status = await self.command("keys", "remove", unknown)
        self.assertEqual((out, status), ("", 1))
        self.assertEqual(
            err, f"pkagent: The key {unknown} is not among those that this agent accepts.\n"
        )

    async def test_agent_that_was_killed_leaves_nothing_in_the_way(self) -> None:
        killed = start_agent(self, self.state.directory)
        await killed.ready
        await killed.stop("KILL")
        self.assertTrue(self.state.control_socket.exists())
        out, err, status = await self.command("status")
        self.assertEqual(status, 3, out + err)
        agent = start_agent(self, self.state.directory)
        await agent.ready
        _, err, status = await self.command("status")
        self.assertEqual(status, 0, err)

    async def test_nonsense_on_the_control_socket_harms_nobody(self) -> None:
        agent = start_agent(self, self.state.directory)
        await agent.ready
        for octets in (b"\0\0\0\0\x09", b"\xff" * 100, b"\0\0\0\x12\x01" + b'{"jsonrpc":"2.0"}\n'):
            with connect_control_socket(self.state.control_socket, timeout_s=30) as stranger:
                stranger.sendall(octets)
                await agent.says("The control connection ends")
                self.assertEqual(stranger.recv(1000), b"")
        _, err, status = await self.command("status")
        self.assertEqual(status, 0, err)

    async def test_agent_that_stops_takes_its_socket_away(self) -> None:
        agent = start_agent(self, self.state.directory)
        await agent.ready
        await self.command("status")
        await agent.stop()
        self.assertFalse(self.state.control_socket.exists())
        _, err, status = await self.command("status")
        self.assertEqual(status, 3)
        self.assertIn("No agent answers", err)
        self.assertEqual(err.count("\n"), 1)


class StartTests(AgentTestCase):
    async def refusal(self, listen: str = LOOPBACK) -> str:
        """Start an agent that cannot; give what it printed, which has no traceback."""
        agent = start_agent(self, self.state.directory, listen)
        self.assertEqual(await agent.ended, 1)
        self.assertNotIn("Traceback", agent.output)
        return agent.output

    async def test_agent_without_a_key_makes_one_and_says_its_pin(self) -> None:
        self.state = StateFolder(Path(self.mktemp()))
        agent = start_agent(self, self.state.directory)
        await agent.ready
        self.assertIn(f"with key {self.state.key_pair().pin}", agent.output)
        self.assertIn("No engine is accepted yet", agent.output)

    async def test_taken_port_ends_it_with_one_sentence(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            listen = f"tcp:{port}:interface=127.0.0.1"
            lines = (await self.refusal(listen)).splitlines()
        self.assertIn(f"Cannot listen on {listen}: Address already in use.", lines[-1])
        self.assertFalse(self.state.control_socket.exists())

    async def test_daemon_that_cannot_start_says_so_to_whoever_waits_for_it(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            _, err, status = await twistd(
                f"--pidfile={folder}/pid",
                f"--logfile={folder}/log",
                "pkagent",
                f"--state={self.state.directory}",
                f"--listen=tcp:{taken.getsockname()[1]}:interface=127.0.0.1",
            )
        self.assertEqual(status, 1)
        self.assertIn("Cannot listen on", err)
        log = (folder / "log").read_text()
        self.assertIn("Address already in use", log.splitlines()[-1])
        self.assertNotIn("Traceback", log)
        self.assertFalse((folder / "pid").exists())

    async def test_what_is_no_endpoint_ends_it_with_one_sentence(self) -> None:
        for endpoint in ("nonsense:1", "systemd:domain=INET6:index=0"):
            output = await self.refusal(endpoint)
            self.assertEqual(output.count("\n"), 1)
            self.assertIn(f"pkagent: Cannot listen on '{endpoint}'", output)

    async def test_second_agent_leaves_the_first_one_alone(self) -> None:
        first = start_agent(self, self.state.directory)
        port = await first.port
        output = await self.refusal()
        self.assertIn("Another agent runs with the state folder", output)
        channel = await connect_engine(self, self.engine, port, self.agent_pin)
        self.assertIsNone(await channel.call(PING))
        _, err, status = await pkagent("status", "--state", str(self.state.directory))
        self.assertEqual(status, 0, err)

    async def test_broken_state_ends_it_with_one_sentence(self) -> None:
        directory = self.state.directory
        key, accepted = directory / "agent.key", self.state.authorized_engines
        directory.chmod(0o755)
        self.assertIn(f"chmod 700 {directory}", await self.refusal())
        directory.chmod(0o700)
        key.chmod(0o644)
        self.assertIn(f"chmod 600 {key}", await self.refusal())
        key.chmod(0o600)
        accepted.write_text("sha256//short name=engine-1\n")
        self.assertIn(f"{accepted}, line 1", await self.refusal())
        accepted.unlink()
        key.write_text("no key at all")
        output = await self.refusal()
        self.assertIn(f"{key} holds no unencrypted private key", output)
        self.assertEqual(output.count("\n"), 1)


class ServiceManager(DatagramProtocol):
    """Hears what sd_notify(3) sends."""

    def __init__(self) -> None:
        self.heard: DeferredQueue[str] = DeferredQueue()

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        self.heard.put(datagram.decode())


class ServiceManagerTests(AgentTestCase):
    async def test_service_manager_hears_how_the_agent_fares(self) -> None:
        folder = tempfile.TemporaryDirectory()  # its path is short enough for a socket
        self.addCleanup(folder.cleanup)
        manager = ServiceManager()
        address = f"{folder.name}/notify"
        port = reactor.listenUNIXDatagram(address, manager)
        self.addCleanup(port.stopListening)
        agent = start_agent(
            self, self.state.directory, NOTIFY_SOCKET=address, WATCHDOG_USEC="60000000"
        )
        listening = f"STATUS=Listening on 127.0.0.1:{await agent.port}; engines connected: "
        for message in (listening + "0", "READY=1", "WATCHDOG=1"):
            self.assertEqual(await manager.heard.get(), message)
        channel = await connect_engine(self, self.engine, await agent.port, self.agent_pin)
        self.assertEqual(await manager.heard.get(), listening + "1")
        channel.close()
        self.assertEqual(await manager.heard.get(), listening + "0")
        await agent.stop()
        self.assertEqual(await manager.heard.get(), "STOPPING=1")


class Collector(Protocol):
    """Keeps what arrives, and says when the connection has ended."""

    def __init__(self) -> None:
        self.received = b""
        self.ended: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.ended.callback(None)


class StrangersTests(AgentTestCase):
    """Whatever strangers do on the port, engines are served."""

    async def connect(self, port: int) -> Collector:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        stranger = await connectProtocol(endpoint, Collector())
        self.addCleanup(lambda: stranger.transport.abortConnection())
        return stranger

    async def test_garbage_and_half_open_connections_keep_nobody_out(self) -> None:
        agent = start_agent(self, self.state.directory)
        port = await agent.port
        silent = await gatherResults(
            [Deferred.fromCoroutine(self.connect(port)) for _ in range(50)]
        )
        for octets in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100_000, b"\x16\x03\x01\xff\xff" * 9):
            noisy = await self.connect(port)
            noisy.transport.write(octets)
            await noisy.ended
        channel = await connect_engine(self, self.engine, port, self.agent_pin)
        self.assertIsNone(await channel.call(PING))
        self.assertTrue(all(not stranger.ended.called for stranger in silent))

    async def test_refused_engine_learns_nothing_and_the_log_says_why(self) -> None:
        agent = start_agent(self, self.state.directory)
        port = await agent.port
        stranger = KeyPair.generate("engine-1")
        await self.assertFailure(
            Deferred.fromCoroutine(connect_engine(self, stranger, port, self.agent_pin)),
            AuthenticationError,
        )
        await agent.says(str(stranger.pin))
        self.assertIn("127.0.0.1", agent.output)


class OtherUsersTests(AgentTestCase):
    """Users other than root and the agent's own may not control it."""

    if os.geteuid() != 0:
        skip = "only root can become another user"

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()  # one that other users can get to
        self.addCleanup(folder.cleanup)
        Path(folder.name).chmod(0o711)
        self.state = StateFolder(Path(folder.name) / "state")
        initialize(self.state, [TrustedPeer(name="engine-1", key=self.engine.pin)])

    def as_nobody(self, *arguments: str) -> Deferred[tuple[str, str, int]]:
        state = str(self.state.directory)
        return Deferred.fromCoroutine(pkagent(*arguments, "--state", state, as_nobody=True))

    async def test_folder_keeps_them_out(self) -> None:
        agent = start_agent(self, self.state.directory)
        await agent.ready
        for command in (("status",), ("keys", "list"), ("pin",), ("init",)):
            out, err, status = await self.as_nobody(*command)
            self.assertEqual((out, status), ("", 4), err)
            self.assertEqual(err.count("\n"), 1)

    async def test_kernel_tells_on_them_where_the_folder_is_open(self) -> None:
        agent = start_agent(self, self.state.directory)
        await agent.ready
        self.state.directory.chmod(0o711)
        self.state.control_socket.chmod(0o666)
        out, err, status = await self.as_nobody("keys", "remove", str(self.engine.pin))
        self.assertEqual((out, status), ("", 4))
        self.assertIn("Only root and the agent's own user", err)
        await agent.says("of uid 65534 is refused on the control socket")
        self.assertIn(str(self.engine.pin), self.state.authorized_engines.read_text())
