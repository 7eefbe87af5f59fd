"""``twistd pkengine`` for real: what the first start makes, and how it says no."""

from __future__ import annotations

import json
import resource
import socket
import sqlite3
import stat
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from pkengine.auth.shared_key import SharedKey
from pkengine.engine.clusters import Clusters
from pkengine.engine.model import Host, HostKey, HostStatus, KeySource
from pkengine.engine.store import Seal, Store, hosts
from pkengine.keys import Secret
from tests.engine.engine_process import EngineProcess
from tests.engine.hosts.keys import ADDED


class EngineTests(TestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp()).absolute()

    def start(self, *arguments: str, https: str = "", state: Path | None = None) -> EngineProcess:
        engine = EngineProcess(reactor, state or self.state, *arguments, https=https)
        self.addCleanup(lambda: engine.ended.called or engine.stop("KILL"))
        return engine

    async def started(self) -> EngineProcess:
        engine = self.start()
        await engine.ready
        return engine

    async def refusal(self, *arguments: str, https: str = "", state: Path | None = None) -> str:
        """Start an engine that must end with status 1; give what it says on standard error."""
        engine = self.start(*arguments, https=https, state=state)
        self.assertEqual(await engine.ended, 1)
        said = engine.errors.decode()
        self.assertNotIn("Traceback", said + engine.output.decode())
        self.assertEqual(len(said.strip().splitlines()), 1, said)
        return said

    async def failure(self) -> str:
        """Start an engine that ends with status 1 while it starts; give what it logs."""
        engine = self.start()
        self.assertEqual(await engine.ended, 1)
        self.assertNotIn(b"Traceback", engine.output + engine.errors)
        return engine.output.decode()

    async def test_a_resolver_that_cannot_be_believed_is_refused(self) -> None:
        said = await self.refusal("--sshfp", "192.0.2.53")
        self.assertIn("The resolver 192.0.2.53 is not on this machine", said)
        self.assertIn("is malformed", await self.refusal("--sshfp", "localhost"))

    async def test_the_first_start_makes_what_is_needed_and_nobody_else_may_read_it(self) -> None:
        engine = await self.started()
        self.assertEqual(stat.S_IMODE(self.state.stat().st_mode), 0o700)
        for name in (
            "engine.key",
            "https.key",
            "secrets.key",
            "ssh/id_ed25519",
            "initial-admin-password",
        ):
            mode = stat.S_IMODE((self.state / name).stat().st_mode)
            self.assertEqual((name, mode), (name, 0o600))
        for name in ("engine.crt", "https.crt", "ssh/id_ed25519.pub", "engine.db"):
            self.assertTrue((self.state / name).exists(), name)
        self.assertNotIn(engine.password.encode(), engine.output + engine.errors)

    async def test_the_administrator_logs_in_and_the_event_list_is_not_empty(self) -> None:
        engine = await self.started()
        status, body = await engine.get("/events")
        self.assertEqual(status, 200, body)
        self.assertEqual([event["code"] for event in json.loads(body)["event"]][-1], "1")

    async def test_a_thousand_connections_that_say_nothing_keep_nobody_out(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))  # the engine gets it
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        engine = await self.started()
        where = urlsplit(engine.url)
        for _ in range(1000):
            silent = socket.create_connection((where.hostname, where.port))
            self.addCleanup(silent.close)
        status, body = await engine.get("/events")
        self.assertEqual(status, 200, body)

    async def test_on_a_terminal_the_first_password_is_shown_once(self) -> None:
        for count in (1, 0):
            engine = EngineProcess(reactor, self.state, on_terminal=True)
            self.addCleanup(engine.stop)
            await engine.ready
            await engine.stop()
            self.assertEqual(engine.output.count(engine.password.encode()), count)

    async def test_stopping_is_orderly_and_a_second_start_keeps_keys_and_password(self) -> None:
        first = await self.started()
        kept = ("engine.crt", "https.crt", "ssh/id_ed25519.pub", "initial-admin-password")
        before = [(self.state / name).read_bytes() for name in kept]
        await first.stop()
        self.assertIn(b"Server Shut Down", first.output)
        self.assertNotIn(b"Traceback", first.output + first.errors)
        self.assertFalse((self.state / "https.url").exists())
        second = await self.started()
        self.assertEqual([(self.state / name).read_bytes() for name in kept], before)
        _, body = await second.get("/events")
        codes = [event["code"] for event in json.loads(body)["event"] if int(event["code"]) < 3]
        self.assertEqual(codes, ["1", "2", "1"])

    async def test_a_killed_engine_starts_again(self) -> None:
        first = await self.started()
        await first.stop("KILL")
        second = await self.started()
        status, _ = await second.get("/hosts")
        self.assertEqual(status, 200)

    async def test_a_second_engine_on_the_same_folder_is_refused(self) -> None:
        engine = await self.started()
        self.assertIn("Another engine runs", await self.refusal())
        status, _ = await engine.get("/hosts")
        self.assertEqual(status, 200)

    async def test_a_port_that_is_taken_is_named(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            where = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            said = await self.refusal(https=where)
        self.assertIn(where, said)
        self.assertIn("in use", said)

    async def test_an_endpoint_that_is_none_is_refused(self) -> None:
        self.assertIn("expected a port", await self.refusal(https="carrier-pigeon:8443"))

    async def test_who_may_say_where_a_connection_comes_from_must_be_named(self) -> None:
        said = await self.refusal(https="haproxy:tcp:0:interface=127.0.0.1")
        self.assertIn("Name the proxies that are believed with --trusted-proxies", said)
        self.assertIn("'proxy.example'", await self.refusal("--trusted-proxies", "proxy.example"))

    async def test_a_default_way_that_cannot_be_gone_is_refused(self) -> None:
        for arguments, expected in (
            (("--connection", "agent-dials"), "--agent-url"),
            (("--mechanism", "hmac"), "needs the connection 'agent-dials'"),
            (("--connection", "both"), "expected engine-dials or agent-dials"),
        ):
            self.assertIn(expected, await self.refusal(*arguments))

    async def test_a_folder_that_cannot_be_made_is_named(self) -> None:
        self.state.write_text("a file")
        self.assertIn(str(self.state), await self.refusal(state=self.state / "below"))

    async def test_a_folder_that_lets_others_in_is_refused_with_the_remedy(self) -> None:
        self.state.mkdir()
        self.state.chmod(0o755)
        self.assertIn("chmod 700", await self.refusal())

    async def test_a_database_url_that_is_none_is_refused_without_repeating_it(self) -> None:
        said = await self.refusal("--database", "mysql://u:hunter2@h/d")
        self.assertIn("database URL is not understood", said)
        self.assertNotIn("hunter2", said)

    async def test_the_database_of_a_newer_version_is_left_alone(self) -> None:
        engine = await self.started()
        await engine.stop()
        database = sqlite3.connect(self.state / "engine.db")
        with database:
            database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.close()
        self.assertIn("newer pkengine", await self.refusal())

    async def test_secrets_that_cannot_be_opened_end_the_start_and_change_nothing(self) -> None:
        engine = await self.started()
        await engine.stop()
        path = self.state / "secrets.key"
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        store = await Store.open(reactor, f"sqlite:///{self.state / 'engine.db'}")
        host = Host(
            id=uuid.uuid4(),
            name="h1",
            address="h1",
            cluster_id=(await Clusters(store).default()).id,
            status=HostStatus.MAINTENANCE,
            keys=(shared_key(Seal.load(path, is_in_use=True)),),
        )
        await store.write(hosts.insert_host, host, ADDED)
        await store.close()
        right = path.read_bytes()
        path.unlink()
        said = await self.refusal()
        self.assertIn(f"{path} is missing", said)
        self.assertFalse(path.exists())
        Seal.load(path, is_in_use=False)  # another one
        self.assertIn(f"cannot be opened with the key in {path}", await self.failure())
        path.write_bytes(right)
        self.assertIn("tampered with", await self.failure())  # it was sealed for no such host
        path.chmod(0o640)
        self.assertIn(f"chmod 600 {path}", await self.refusal())

    async def test_a_password_that_cannot_be_kept_ends_the_start(self) -> None:
        self.state.mkdir(mode=0o700)
        # The file is there and not ours to read as a secret: others may read it.
        (self.state / "initial-admin-password").write_text("guess me\n")
        (self.state / "initial-admin-password").chmod(0o644)
        engine = self.start()
        self.assertEqual(await engine.ended, 1)
        self.assertIn(b"chmod 600", engine.output)


def shared_key(seal: Seal) -> HostKey:
    """Give a key whose secret is sealed for another host than any."""
    key = SharedKey.generate("hmac", local="engine", peer="host")
    sealed = seal.seal(Secret(key.encode()), str(uuid.uuid4()), str(key.key_id), "hmac")
    return HostKey(
        key=key.key_id,
        mechanism="hmac",
        source=KeySource.DEPLOYED,
        added=ADDED,
        sealed=sealed,
    )
