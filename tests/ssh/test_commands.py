"""Running commands and sending files on a connection."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, gatherResults

from pkengine.errors import SshCommandFailed, SshConnectionLost, SshError, SudoRefused
from pkengine.keys import Secret
from pkengine.ssh import HostKeyPolicy, SshConnection, SshCredentials, SshTarget, connect_ssh
from tests.ssh.clock import ClockedReactor
from tests.ssh.server import CHANNEL_DATA, CHANNEL_OPEN, CHANNEL_REQUEST, PASSWORD, Login
from tests.ssh.test_client import ClientTestCase


class CommandTests(ClientTestCase):
    async def test_status_and_both_outputs_come_back_apart(self):
        connection = await self.connect(self.serve())
        result = await connection.run("echo out; echo err >&2; exit 3", check=False)
        self.assertEqual(
            (result.exit_status, result.stdout, result.stderr, result.exit_signal),
            (3, b"out\n", b"err\n", ""),
        )

    async def test_a_failed_command_shows_its_last_words(self):
        connection = await self.connect(self.serve())
        attempt = ensureDeferred(connection.run("echo no space left >&2; exit 28"))
        error = await self.assertFailure(attempt, SshCommandFailed)
        self.assertEqual((error.exit_status, error.stderr), (28, "no space left"))
        self.assertIn("exit status 28: no space left", str(error))

    async def test_a_signal_is_told(self):
        connection = await self.connect(self.serve())
        result = await connection.run("kill -9 $$", check=False)
        self.assertEqual((result.exit_status, result.exit_signal), (None, "KILL"))
        text = await self.refused(SshCommandFailed, connection.run("kill -9 $$"))
        self.assertIn("was ended by signal KILL", text)

    async def test_standard_input_reaches_the_command_and_ends(self):
        connection = await self.connect(self.serve())
        content = os.urandom(300_000)
        result = await connection.run("wc -c; cat", stdin=content)
        self.assertEqual(result.stdout, b"300000\n")
        result = await connection.run("cat", stdin=content)
        self.assertEqual(result.stdout, content)

    async def test_what_it_writes_is_heard_while_it_runs(self):
        connection = await self.connect(self.serve())
        fifo = self.mktemp()
        os.mkfifo(fifo)
        heard = []

        def answer(piece: bytes) -> None:
            heard.append(piece)
            if len(heard) == 1:
                with open(fifo, "w") as end:
                    end.write("two\n")

        result = await connection.run(f"echo one; cat {os.path.abspath(fifo)}", heard=answer)
        self.assertEqual((heard, result.stdout), ([b"one\n", b"two\n"], b"one\ntwo\n"))

    async def test_a_listener_that_fails_fails_the_command(self):
        connection = await self.connect(self.serve())

        def refuse(piece: bytes) -> None:
            raise ValueError("that was not it")

        for running in (
            connection.run("echo hi", heard=refuse),
            connection.send("echo hi; cat", io.BytesIO(b"x"), 1, heard=refuse),
        ):
            await self.assertFailure(ensureDeferred(running), ValueError)
        self.assertEqual((await connection.run("echo on")).stdout, b"on\n")

    async def test_without_standard_input_the_command_sees_its_end(self):
        connection = await self.connect(self.serve())
        self.assertEqual((await connection.run("cat; echo done")).stdout, b"done\n")

    async def test_any_text_but_nul_is_a_command(self):
        connection = await self.connect(self.serve())
        result = await connection.run("echo 'grüße \udcff'")
        self.assertEqual(result.stdout, "grüße ".encode() + b"\xff\n")
        await self.refused(ValueError, connection.run("echo a\0; rm -rf b"))
        self.assertEqual((await connection.run("echo still here")).stdout, b"still here\n")

    async def test_many_commands_run_side_by_side(self):
        connection = await self.connect(self.serve())
        results = await gatherResults(
            [ensureDeferred(connection.run(f"echo {n}")) for n in range(10)]
        )
        self.assertEqual([int(result.stdout) for result in results], list(range(10)))

    async def test_a_command_that_writes_too_much_is_ended(self):
        server = self.serve()
        connection = await self.connect(server)
        text = await self.refused(
            SshCommandFailed, connection.run("cat /dev/zero", max_output=100_000)
        )
        self.assertIn("more than 100000 octets", text)
        self.assertEqual((await connection.run("echo still here")).stdout, b"still here\n")

    async def test_a_command_that_reads_nothing_does_not_hold_up_its_result(self):
        connection = await self.connect(self.serve())
        result = await connection.run("exec <&-; echo done", stdin=b"unread")
        self.assertEqual(result.stdout, b"done\n")

    async def test_a_command_without_exit_status_is_a_failure(self):
        server = self.serve()

        def close(transport):
            transport.sendPacket(97, bytes(4))
            return False

        server.behaviours[CHANNEL_REQUEST] = close
        server.behaviours[96] = server.behaviours[97] = lambda transport: False
        connection = await self.connect(server)
        text = await self.refused(SshCommandFailed, connection.run("true"))
        self.assertIn("ended without exit status", text)

    async def test_a_host_that_runs_no_commands_is_named(self):
        server = self.serve()
        server.refuses_commands = True
        connection = await self.connect(server)
        text = await self.refused(SshCommandFailed, connection.run("true"))
        self.assertIn("refuses to run 'true'", text)

    async def test_a_cancelled_command_is_ended_on_the_host(self):
        server = self.serve()
        connection = await self.connect(server)
        running = ensureDeferred(connection.run("echo started; exec sleep 1000"))
        while not server.running:
            await _turn()
        process = next(iter(server.running))
        running.cancel()
        await self.assertFailure(running, CancelledError)
        await process.ended
        self.assertEqual(server.signals, ["TERM"])
        self.assertEqual((await connection.run("echo still here")).stdout, b"still here\n")

    async def test_a_connection_lost_during_a_command_is_told(self):
        server = self.serve()
        connection = await self.connect(server)
        running = ensureDeferred(connection.run("exec sleep 1000"))
        while not server.running:
            await _turn()
        server.connections[0].transport.abortConnection()
        error = await self.assertFailure(running, SshConnectionLost)
        self.assertIn("'exec sleep 1000' was cut off", str(error))

    async def test_a_connection_lost_before_the_command_began_is_told(self):
        for message in (CHANNEL_OPEN, CHANNEL_REQUEST):
            server = self.serve()
            server.close_at(message)
            connection = await self.connect(server)
            await self.refused(SshConnectionLost, connection.run("true"))

    async def test_closing_ends_the_commands_that_run(self):
        server = self.serve()
        connection = await self.connect(server)
        running = ensureDeferred(connection.run("exec sleep 1000"))
        while not server.running:
            await _turn()
        await connection.close()
        await self.assertFailure(running, SshConnectionLost)

    async def test_a_connection_that_opens_no_channel_says_why(self):
        server = self.serve()

        def refuse(transport):
            transport.sendPacket(92, bytes(4) + bytes((0, 0, 0, 1)) + b"\0\0\0\2no\0\0\0\0")
            return False

        server.behaviours[CHANNEL_OPEN] = refuse
        connection = await self.connect(server)
        text = await self.refused(SshError, connection.run("true"))
        self.assertIn("opens no channel for 'true': 'no'", text)


class DeadlineTests(ClientTestCase):
    """Time passes only when the test says so."""

    async def patient(self, server) -> tuple[SshConnection, ClockedReactor]:
        clock = ClockedReactor()
        connection = await connect_ssh(
            clock,
            SshTarget("127.0.0.1", server.port, "admin"),
            HostKeyPolicy(),
            SshCredentials(Secret(PASSWORD)),
        )

        def close():
            closed = connection.close()
            clock.advance(10)
            return closed

        self.addCleanup(close)
        return connection, clock

    async def test_a_command_that_does_not_end_is_given_up(self):
        server = self.serve()
        connection, clock = await self.patient(server)
        running = ensureDeferred(connection.run("exec sleep 1000", timeout_s=30))
        while not server.running:
            await _turn()
        clock.advance(30)
        error = await self.assertFailure(running, SshCommandFailed)
        self.assertIn("'exec sleep 1000' on 127.0.0.1", str(error))
        self.assertIn("did not end within 30 s", str(error))

    async def test_an_output_that_is_held_open_is_named(self):
        server = self.serve()
        server.keeps_channels_open = True
        connection, clock = await self.patient(server)
        running = ensureDeferred(connection.run("true", timeout_s=30))
        while not (server.commands and not server.running):
            await _turn()
        await _round_trip(server)
        clock.advance(30)
        error = await self.assertFailure(running, SshCommandFailed)
        self.assertIn("held its output open", str(error))
        self.assertEqual(error.exit_status, 0)

    async def test_a_channel_that_is_opened_too_late_is_closed_again(self):
        server = self.serve()
        opening = []
        server.behaviours[CHANNEL_OPEN] = opening.append
        connection, clock = await self.patient(server)
        running = ensureDeferred(connection.run("true", timeout_s=30))
        while not opening:
            await _turn()
        clock.advance(30)
        await self.assertFailure(running, SshError)
        server.behaviours.clear()
        number, payload = server.connections[0].messages[-1]
        server.connections[0].dispatchMessage(number, payload)
        self.assertEqual((await connection.run("echo next")).stdout, b"next\n")
        self.assertEqual(server.commands, ["echo next"])

    async def test_a_sudo_that_asks_something_else_is_given_up(self):
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        (folder / "sudo").write_text("#!/bin/sh\nprintf 'Token: ' >&2; exec sleep 1000\n")
        (folder / "sudo").chmod(0o755)
        server = self.serve(path=str(folder))
        connection, clock = await self.patient(server)
        running = ensureDeferred(connection.run("true", as_root=True, timeout_s=30))
        while not server.running:
            await _turn()
        clock.advance(30)
        error = await self.assertFailure(running, SudoRefused)
        self.assertIn("started nothing within 30 s", str(error))

    async def test_a_channel_that_is_not_opened_is_named(self):
        server = self.serve()
        stalled = server.stall_at(CHANNEL_OPEN)
        connection, clock = await self.patient(server)
        running = ensureDeferred(connection.run("true", timeout_s=30))
        await stalled
        clock.advance(30)
        error = await self.assertFailure(running, SshError)
        self.assertIn("opened no channel for 'true' within 30 s", str(error))

    async def test_a_host_that_does_not_close_is_left(self):
        server = self.serve()
        connection, clock = await self.patient(server)
        server.connections[0].transport.pauseProducing()
        closed = connection.close()
        clock.advance(10)
        await closed
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_no_timer_is_left_behind(self):
        connection, clock = await self.patient(self.serve())
        before = clock.getDelayedCalls()  # the new keys that are due some day
        await connection.run("true")
        self.assertEqual(clock.getDelayedCalls(), before)
        await connection.close()
        self.assertEqual(clock.getDelayedCalls(), [])


class SendTests(ClientTestCase):
    async def test_a_file_arrives_whole_and_progress_is_told(self):
        connection = await self.connect(self.serve())
        content, seen = os.urandom(1_000_000), []
        result = await connection.send(
            "sha256sum",
            io.BytesIO(content),
            len(content),
            progress=lambda sent, size: seen.append((sent, size)),
        )
        self.assertEqual(result.stdout.split()[0].decode(), hashlib.sha256(content).hexdigest())
        self.assertEqual(seen, sorted(seen))
        self.assertEqual(seen[-1], (len(content), len(content)))
        self.assertGreater(len(seen), 3)

    async def test_no_more_is_read_than_the_host_has_room_for(self):
        server = self.serve()
        server.window = 50_000
        stalled = server.stall_at(CHANNEL_DATA)
        connection = await self.connect(server)
        source = io.BytesIO(bytes(10_000_000))
        sending = ensureDeferred(connection.send("cat", source, 10_000_000))
        await stalled
        await _round_trip(server)
        self.assertEqual(source.tell(), 50_000)
        sending.cancel()
        await self.assertFailure(sending, CancelledError)

    async def test_no_more_is_read_than_the_network_takes(self):
        server = self.serve()
        server.window = 1 << 31
        connection = await self.connect(server)
        server.behaviours[CHANNEL_REQUEST] = lambda transport: (
            transport.transport.pauseProducing() or True
        )
        source = io.BytesIO(bytes(100_000_000))
        sending = ensureDeferred(connection.send("cat", source, 100_000_000))
        while not server.running:
            await _turn()
        for _ in range(100):
            await _turn()
        self.assertLess(source.tell(), 20_000_000)
        sending.cancel()
        await self.assertFailure(sending, CancelledError)

    async def test_a_command_that_ends_before_it_has_all_is_a_failure(self):
        connection = await self.connect(self.serve())
        attempt = connection.send("exec <&-", io.BytesIO(bytes(10_000_000)), 10_000_000)
        text = await self.refused(SshCommandFailed, attempt)
        self.assertIn("of 10000000 octets", text)

    async def test_a_file_that_is_shorter_than_told_is_a_failure(self):
        server = self.serve()
        connection = await self.connect(server)
        attempt = connection.send("cat >/dev/null", io.BytesIO(b"short"), 10)
        text = await self.refused(SshError, attempt)
        self.assertIn("ends after 5 of 10 octets", text)

    async def test_no_more_is_sent_than_told(self):
        connection = await self.connect(self.serve())
        result = await connection.send("cat", io.BytesIO(b"0123456789"), 4)
        self.assertEqual(result.stdout, b"0123")

    async def test_an_unreadable_source_fails_the_command_and_not_the_connection(self):
        class Broken(io.BytesIO):
            def read(self, size=-1):
                raise OSError(5, "Input/output error")

        connection = await self.connect(self.serve())
        await self.refused(OSError, connection.send("cat", Broken(), 10))
        self.assertEqual((await connection.run("echo still here")).stdout, b"still here\n")


FAKE_SUDO = """#!/bin/sh
# Behaves as sudo does towards a program: prompts on standard error, reads a line.
test "$1 $2" = "-S -p" || exit 99
prompt=$3
shift 4
{behaviour}
"""
ASK_ONCE = """printf %s "$prompt" >&2
read -r password
if [ "$password" != "{password}" ]; then
    printf '\\nSorry, try again.\\n%s' "$prompt" >&2
    read -r password || { printf '\\nsudo: no password was provided\\n' >&2; exit 1; }
fi
SUDO=yes exec "$@"
"""


class SudoTests(ClientTestCase):
    """What sudo does is played by a script; that the real one does so is tried elsewhere."""

    def serve_with_sudo(self, behaviour: str | None, **options):
        folder = Path(self.mktemp())
        folder.mkdir()
        if behaviour is not None:
            sudo = folder / "sudo"
            sudo.write_text(FAKE_SUDO.replace("{behaviour}", behaviour))
            sudo.chmod(0o755)
            path = str(folder.absolute())
        else:
            for name in ("env", "sh"):
                (folder / name).symlink_to(f"/usr/bin/{name}")
            path = str(folder.absolute())
        server = self.serve(login=Login(password="simple", **options), path=path)
        if behaviour is None:
            server.environment = {"PATH": path}
        return server

    async def test_the_password_goes_to_sudo_and_the_input_to_the_command(self):
        server = self.serve_with_sudo(ASK_ONCE.replace("{password}", "simple"))
        connection = await self.connect(server, password="simple")
        result = await connection.run("echo $SUDO; cat; echo e >&2", stdin=b"in\n", as_root=True)
        self.assertEqual((result.stdout, result.stderr), (b"yes\nin\n", b"e\n"))
        self.assertNotIn("simple", "".join(server.commands))

    async def test_sudo_may_have_a_password_of_its_own(self):
        server = self.serve_with_sudo(ASK_ONCE.replace("{password}", "another"))
        connection = await self.connect(server, password="simple", sudo_password=Secret("another"))
        self.assertEqual((await connection.run("echo $SUDO", as_root=True)).stdout, b"yes\n")

    async def test_a_sudo_without_password_gets_none(self):
        connection = await self.connect(self.serve_with_sudo('exec "$@"'), password="simple")
        result = await connection.run("cat", stdin=b"input", as_root=True)
        self.assertEqual((result.stdout, result.stderr), (b"input", b""))

    async def test_a_file_is_sent_to_a_command_of_root(self):
        server = self.serve_with_sudo(ASK_ONCE.replace("{password}", "simple"))
        connection = await self.connect(server, password="simple")
        content = os.urandom(500_000)
        result = await connection.send("sha256sum", io.BytesIO(content), 500_000, as_root=True)
        self.assertEqual(result.stdout.split()[0].decode(), hashlib.sha256(content).hexdigest())

    async def test_the_exit_status_is_that_of_the_command(self):
        connection = await self.connect(self.serve_with_sudo('exec "$@"'), password="simple")
        self.assertEqual(
            (await connection.run("exit 7", as_root=True, check=False)).exit_status, 7
        )
        await self.refused(SshCommandFailed, connection.run("if fi", as_root=True))

    async def test_a_password_that_sudo_refuses_is_given_once(self):
        server = self.serve_with_sudo(ASK_ONCE.replace("{password}", "another"))
        connection = await self.connect(server, password="simple")
        text = await self.refused(SudoRefused, connection.run("true", as_root=True))
        self.assertIn("sudo on 127.0.0.1", text)
        self.assertIn("does not accept the password", text)
        self.assertNotIn("simple", text)

    async def test_a_user_who_may_not_is_told_so(self):
        behaviour = "echo 'admin is not in the sudoers file.' >&2; exit 1"
        connection = await self.connect(self.serve_with_sudo(behaviour), password="simple")
        text = await self.refused(SudoRefused, connection.run("true", as_root=True))
        self.assertIn("admin is not in the host's sudoers file", text)

    async def test_a_host_without_sudo_is_named(self):
        connection = await self.connect(self.serve_with_sudo(None), password="simple")
        text = await self.refused(SudoRefused, connection.run("true", as_root=True))
        self.assertIn("sudo is not installed there", text)

    async def test_root_needs_no_sudo(self):
        server = self.serve_with_sudo("exit 1", user="root")
        connection = await self.connect(server, password="simple", user="root")
        self.assertEqual((await connection.run("echo plain", as_root=True)).stdout, b"plain\n")
        self.assertEqual(server.commands, ["echo plain"])


def _turn() -> Deferred[None]:
    """Let the reactor go round once."""
    turned: Deferred[None] = Deferred()
    reactor.callLater(0, turned.callback, None)
    return turned


async def _round_trip(server) -> None:
    """Wait until what the server has sent was received."""
    while server.connections[0].transport._tempDataBuffer != []:
        await _turn()
    for _ in range(20):
        await _turn()
