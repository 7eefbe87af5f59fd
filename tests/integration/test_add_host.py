"""Adding hosts for real: OpenSSH, PAM, sudo, another file system, another address."""

from __future__ import annotations

from twisted.internet.defer import DeferredList, ensureDeferred

from pkengine.engine.events import EventCode
from pkengine.engine.model import (
    HostKeySource,
    HostStatus,
    SshAuthenticationMethod,
    SshLogin,
    StepStatus,
)
from pkengine.errors import (
    Conflict,
    HostKeyMismatch,
    HostUnreachable,
    SshAuthenticationFailed,
)
from pkengine.keys import Pin, Secret, SshFingerprint
from tests.engine.hosts.keys import keys_of
from tests.hosts import Host as TestHost
from tests.integration.engine_case import ADMIN, EngineTestCase

STATE = "/var/lib/pkagent"


async def agent_pin(host: TestHost, state: str = STATE) -> Pin:
    """Give the pin of the agent's key as openssl on the host computes it."""
    digest = await host.run(
        f"openssl x509 -in {state}/agent.crt -noout -pubkey | openssl pkey -pubin -outform DER"
        " | openssl dgst -sha256 -binary | base64"
    )
    return Pin.parse(f"sha256//{digest.strip()}")


async def agent_user(host: TestHost) -> str:
    """Give as whom the agent runs."""
    return (await host.run("ps -o user= -p $(pgrep -f [p]kagent)")).strip()


class AddedTests(EngineTestCase):
    async def test_root_by_password_with_the_right_fingerprint_is_up(self) -> None:
        host = await self.host("one")
        added = await self.add_up(host)

        self.assertEqual(HostKeySource.GIVEN_FINGERPRINT, added.ssh.key_source)
        self.assertEqual(await host.host_key(), added.ssh.public_key)
        self.assertEqual((await agent_pin(host),), keys_of(added))
        assert added.capabilities is not None
        self.assertEqual("one", added.capabilities.hostname)
        self.assertEqual("debian", added.capabilities.operating_system.name)
        proved = self.engine.hosts.authenticated(added.id)
        assert proved is not None
        self.assertEqual("pin", proved.mechanism)
        self.assertEqual("TLSv1.3", proved.facts["tls_version"])

        fingerprint = str(await host.fingerprint())
        await self.assert_event(
            EventCode.HOST_ADDED, "Host one was added by admin@internal", fingerprint
        )
        await self.assert_event(EventCode.HOST_INSTALLED, str(added.keys[0].key))
        await self.assert_event(EventCode.HOST_STATUS_CHANGED, "Host one was set to Up")

    async def test_each_sides_key_is_where_it_belongs_and_nowhere_else(self) -> None:
        host = await self.host("one")
        await self.add_up(host)
        self.assertEqual("600 root\n", await host.run(f"stat -c '%a %U' {STATE}/agent.key"))
        self.assertEqual("700 root\n", await host.run(f"stat -c '%a %U' {STATE}"))
        self.assertIn(
            str(self.engine.key_pair.pin), await host.run(f"cat {STATE}/authorized_engines")
        )
        self.assertIn(
            str(self.engine.ssh_keys.newest.public),
            await host.run("cat /root/.ssh/authorized_keys"),
        )
        private = (await host.run(f"cat {STATE}/agent.key")).splitlines()[1].encode()
        for path in self.state.directory.rglob("*"):
            if path.is_file():
                self.assertNotIn(private, path.read_bytes())

    async def test_a_user_with_sudo_installs_the_agent_as_root(self) -> None:
        host = await self.host("one")
        added = await self.add_up(host, user="admin")
        self.assertEqual((await agent_pin(host),), keys_of(added))
        self.assertEqual("root", await agent_user(host))
        self.assertIn("Accepted password for admin", await host.ssh_log())

    async def test_a_user_without_root_installs_below_the_own_home(self) -> None:
        host = await self.host("one")
        added = await self.add_up(host, user="nosudo")
        state = "/home/nosudo/.local/share/pkagent/state"
        self.assertEqual((await agent_pin(host, state),), keys_of(added))
        self.assertEqual("nosudo", await agent_user(host))
        self.assertFalse((host.root / "opt/pkagent").exists())

    async def test_the_fingerprint_of_any_key_of_the_host_will_do(self) -> None:
        host = await self.host("one")
        request = await self.request(host, fingerprint=await host.fingerprint("ecdsa"))
        added, _ = await self.add(request)
        self.assertEqual(await host.host_key("ecdsa"), added.ssh.public_key)
        await self.until(added.id, HostStatus.UP)

    async def test_it_installs_again_by_its_own_key_and_keeps_the_agents(self) -> None:
        host = await self.host("one")
        added = await self.maintain(await self.add_up(host))
        await host.restart_sshd("PasswordAuthentication no", "KbdInteractiveAuthentication no")
        again, job = await self.install(added)
        self.assertEqual(StepStatus.FINISHED, job.status, again.status_detail)
        up = await self.until(added.id, HostStatus.UP)
        self.assertEqual(keys_of(added), keys_of(up))
        self.assertIn("Accepted publickey for root", await host.ssh_log())
        self.assertNotIn("upload", [step.name for step in job.steps])

    async def test_the_key_has_the_limits_that_the_operator_wants_and_works(self) -> None:
        limits = 'restrict,from="10.0.0.0/8,192.168.0.0/16,172.16.0.0/12,fd00::/8"'
        await self.stop_engine()
        await self.start_engine(authorized_keys_options=limits)
        for name, user in (("one", "root"), ("two", "admin")):
            host = await self.host(name)
            added = await self.maintain(await self.add_up(host, user=user))
            (line,) = (await host.run(f"cat ~{user}/.ssh/authorized_keys")).splitlines()
            public = self.engine.ssh_keys.newest.public
            marker = f"pkengine@{self.engine.name_at_agents}"
            self.assertEqual(f"{limits} {public} {marker}", line)
            # By the key, through sudo where that is needed: 'restrict' leaves room for both.
            login = SshLogin(
                authentication_method=SshAuthenticationMethod.PUBLIC_KEY,
                password=host.password[user],
            )
            again, job = await self.install(added, login)
            self.assertEqual(StepStatus.FINISHED, job.status, again.status_detail)
            self.assertIn(f"Accepted publickey for {user}", await host.ssh_log())
        self.assertEqual([], await self.sentences(EventCode.ENGINE_KEY_REFUSED))

    async def test_limits_that_keep_the_engine_out_are_told_at_once(self) -> None:
        host = await self.host("one")
        await self.stop_engine()
        await self.start_engine(authorized_keys_options='from="203.0.113.9"')
        await self.add_up(host)
        seen = (await host.ssh_log()).rpartition("Accepted password for root from ")[2].split()[0]
        await self.assert_event(
            EventCode.ENGINE_KEY_REFUSED,
            "later installations and upgrades will need a password",
            f"The host sees this engine at {seen}",
        )

    async def test_an_engine_that_starts_again_finds_its_hosts_without_ssh(self) -> None:
        host = await self.host("one")
        added = await self.add_up(host)
        before = await host.ssh_log()
        await self.stop_engine()
        await self.start_engine()
        up = await self.until(added.id, HostStatus.UP)
        self.assertEqual(keys_of(added), keys_of(up))
        self.assertEqual(before, await host.ssh_log())

    async def test_a_removed_host_trusts_the_engine_no_longer(self) -> None:
        host = await self.host("one")
        added = await self.maintain(await self.add_up(host))
        await self.engine.hosts.maintenance.remove(added.id, ADMIN)
        await self.assert_event(
            EventCode.HOST_REMOVED,
            "Host one was removed by admin@internal",
            "accepts the key of this engine no longer",
        )
        self.assertEqual([], await self.engine.hosts.list())
        self.assertNotIn(
            str(self.engine.key_pair.pin), await host.run(f"cat {STATE}/authorized_engines")
        )

    async def test_a_host_that_is_uninstalled_has_nothing_of_the_engine_left(self) -> None:
        host = await self.host("one")
        await host.run("echo '# ours' > /root/.ssh/authorized_keys")
        added = await self.maintain(await self.add_up(host))
        await self.engine.hosts.maintenance.remove(added.id, ADMIN, uninstall=True)
        self.assertEqual("# ours\n", await host.run("cat /root/.ssh/authorized_keys"))
        self.assertEqual("", await host.run("pgrep -f [p]kagent || true"))
        self.assertFalse((host.root / "opt/pkagent").exists())
        self.assertFalse((host.root / "var/lib/pkagent").exists())
        self.assertEqual([], await self.engine.hosts.list())


class RefusedTests(EngineTestCase):
    """A refusal that is known before any step ran answers the request: no row, nothing sent."""

    async def test_wrong_fingerprint_sends_neither_name_nor_password(self) -> None:
        host, other = await self.host("one"), await self.host("two")
        given, shown = await other.fingerprint(), await host.fingerprint()
        with self.assertRaises(HostKeyMismatch) as caught:
            await self.add(await self.request(host, fingerprint=given))
        for part in (str(given), str(shown), "ssh-ed25519"):
            self.assertIn(part, str(caught.exception))
        self.assertNotIn("root", await host.ssh_log())
        await self.assert_unknown(host)
        await self.assert_event(EventCode.HOST_ADD_FAILED, "Failed to add Host one", str(shown))

    async def test_wrong_md5_fingerprint_is_refused_as_well(self) -> None:
        host = await self.host("one")
        with self.assertRaises(HostKeyMismatch):
            await self.add(await self.request(host, fingerprint=SshFingerprint("MD5", bytes(16))))
        self.assertNotIn("root", await host.ssh_log())
        await self.assert_unknown(host)

    async def test_wrong_password_is_offered_once(self) -> None:
        host = await self.host("one")
        with self.assertRaisesRegex(SshAuthenticationFailed, "root"):
            await self.add(await self.request(host, password=Secret("wrong")))
        self.assertEqual(1, (await host.ssh_log()).count("Failed password for root"))
        await self.assert_unknown(host)
        await self.assert_event(EventCode.HOST_ADD_FAILED, "Failed to add Host one")

    async def test_unreachable_host_leaves_no_row(self) -> None:
        host = await self.host("one")
        request = await self.request(host)
        await host.cut()
        with self.assertRaisesRegex(HostUnreachable, host.address):
            await self.add(request)
        await host.join()
        await self.assert_unknown(host)
        await self.assert_event(EventCode.HOST_ADD_FAILED, "Failed to add Host one", host.address)

    async def test_two_adds_of_one_address_at_once_make_one_host(self) -> None:
        host = await self.host("one")
        request = await self.request(host)
        adds = [ensureDeferred(self.engine.hosts.admission.add(request, ADMIN)) for _ in range(2)]
        outcomes = await DeferredList(adds, consumeErrors=True)
        # Whichever comes first: the other is told that it is late.
        ((added, job),) = [outcome for succeeded, outcome in outcomes if succeeded]
        (refusal,) = [outcome for succeeded, outcome in outcomes if not succeeded]
        refusal.trap(Conflict)
        self.assertIn("in progress", refusal.getErrorMessage())
        self.assertEqual([added.id], [found.id for found in await self.engine.hosts.list()])
        self.assertEqual(StepStatus.FINISHED, (await self.ended(job)).status)


class ChangedKeyTests(EngineTestCase):
    async def test_hosts_that_swap_addresses_are_neither_logged_in_to_nor_taken_for_up(
        self,
    ) -> None:
        one, two = await self.host("one"), await self.host("two")
        added = [await self.add_up(host) for host in (one, two)]
        await self.farm.swap(one, two)
        for host in added:
            seen = await self.until(host.id, HostStatus.NON_RESPONSIVE)
            self.assertEqual(keys_of(host), keys_of(seen))
            self.assertIsNone(self.engine.hosts.authenticated(host.id))
        logs = [await host.ssh_log() for host in (one, two)]
        for host, real in zip(added, (one, two), strict=True):
            with self.assertRaises(HostKeyMismatch):
                await self.install(host, SshLogin(password=real.password["root"]))
        for host, before in zip((one, two), logs, strict=True):
            self.assertNotIn("root", (await host.ssh_log()).removeprefix(before))

        changes = await self.engine.hosts.key_changes.list()
        self.assertEqual([host.id for host in added], [change.host_id for change in changes])
        for change, here in zip(changes, (two, one), strict=True):
            self.assertIn(await here.host_key(), change.new_keys)
            self.assertIn(await here.host_key("ecdsa"), change.new_keys)
            await self.engine.hosts.key_changes.reject(change.host_id, ADMIN)
        await self.assert_event(EventCode.KEY_CHANGE_REJECTED, "Host two", "admin@internal")
        for host in added:
            stored = await self.engine.hosts.get(host.id)
            self.assertEqual(host.ssh.public_key, stored.ssh.public_key)
        await self.farm.swap(one, two)
        for host in added:
            await self.until(host.id, HostStatus.UP)

    async def test_a_key_that_the_host_proved_is_accepted_when_the_other_is_gone(self) -> None:
        host = await self.host("one")
        added = await self.maintain(await self.add_up(host))
        ecdsa = await host.host_key("ecdsa")
        self.assertIn(ecdsa, added.ssh.proved_keys)
        await self.assert_event(EventCode.HOST_KEYS_LEARNT, "Host one", str(ecdsa.fingerprint()))
        await host.restart_sshd("HostKey /etc/ssh/ssh_host_ecdsa_key")
        again, job = await self.install(added)
        self.assertEqual(StepStatus.FINISHED, job.status, again.status_detail)
        self.assertEqual(
            (ecdsa, HostKeySource.PROVED), (again.ssh.public_key, again.ssh.key_source)
        )
        await self.assert_event(EventCode.HOST_KEY_ROTATED, "Host one", str(ecdsa.fingerprint()))
        self.assertEqual([], await self.engine.hosts.key_changes.list())

    async def test_a_rebuilt_host_is_installed_again_once_its_new_key_is_approved(self) -> None:
        host = await self.host("one")
        added = await self.maintain(await self.add_up(host))
        await host.rotate_host_keys()
        with self.assertRaises(HostKeyMismatch):
            await self.install(added)
        shown = await host.fingerprint("ecdsa")
        approved = await self.engine.hosts.key_changes.approve(added.id, shown, ADMIN)
        self.assertEqual(HostKeySource.APPROVED, approved.ssh.key_source)
        again, job = await self.install(approved)
        self.assertEqual(StepStatus.FINISHED, job.status, again.status_detail)
        up = await self.until(added.id, HostStatus.UP)
        self.assertEqual(await host.host_key("ecdsa"), up.ssh.public_key)
        self.assertEqual(HostKeySource.APPROVED, up.ssh.key_source)
        await self.assert_event(EventCode.KEY_CHANGE_FOUND, "Host one", str(shown))
        await self.assert_event(EventCode.KEY_CHANGE_APPROVED, "Host one", str(shown))

    async def test_a_host_with_new_host_keys_is_refused_until_its_key_is_given(self) -> None:
        host = await self.host("one")
        added = await self.maintain(await self.add_up(host))
        await host.rotate_host_keys()
        with self.assertRaises(HostKeyMismatch) as caught:
            await self.install(added)
        self.assertIn(str(await host.fingerprint()), str(caught.exception))
        self.assertEqual(HostStatus.MAINTENANCE, (await self.engine.hosts.get(added.id)).status)
        again, job = await self.install(added, SshLogin(fingerprint=await host.fingerprint()))
        self.assertEqual(StepStatus.FINISHED, job.status, again.status_detail)
        await self.until(added.id, HostStatus.UP)


class SudoTests(EngineTestCase):
    async def test_sudo_that_wants_another_password_is_a_refusal(self) -> None:
        host = await self.host("one")
        await host.run("echo 'Defaults rootpw' > /etc/sudoers.d/z-rootpw")
        added, job = await self.add(await self.request(host, user="admin"))
        self.assertEqual(HostStatus.INSTALL_FAILED, added.status)
        self.assertEqual(StepStatus.FAILED, job.status)
        self.assertIn("sudo", added.status_detail)
        self.assert_untrusted(added)
        await self.assert_event(EventCode.HOST_INSTALL_FAILED, "Host one", "sudo", "admin")
        self.assertFalse((host.root / "opt/pkagent").exists())
