"""The ways to real hosts: jump hosts, certificates, imported and revoked keys."""

from __future__ import annotations

from typing import Any

from pkengine.engine.events import EventCode
from pkengine.engine.model import (
    HostKeySource,
    HostStatus,
    JumpHost,
    JumpLogin,
    NewHost,
    SshLogin,
    StepStatus,
)
from pkengine.errors import HostKeyMismatch, HostKeyRevoked, HostUnreachable
from pkengine.ssh import KnownHosts
from tests.hosts import Host as TestHost
from tests.integration.engine_case import ADMIN, EngineTestCase


class WaysTestCase(EngineTestCase):
    async def know(self, text: str) -> None:
        """Let an administrator import a known_hosts file."""
        await self.engine.hosts.known_keys.add(KnownHosts.parse(text).lines, ADMIN)

    def new(self, host: TestHost, **login: Any) -> NewHost:
        """Give the request to add a host of which no key is given."""
        ssh = SshLogin(password=host.password["root"], **login)
        return NewHost(name=host.name, address=host.address, ssh=ssh)


class JumpTests(WaysTestCase):
    async def hide(self, host: TestHost) -> None:
        """Let the host answer nothing that comes from the engine's own address."""
        await host.run(f"ip route add blackhole {self.farm.own_address}/32")

    async def let_in(self, host: TestHost, user: str = "admin") -> JumpHost:
        """Let the engine's SSH key into a host that is to be gone through."""
        line = self.engine.ssh_keys.newest.authorized_keys_line
        options = "restrict,port-forwarding"
        await host.run(
            f"install -d -m 700 -o {user} ~{user}/.ssh; cat > ~{user}/.ssh/authorized_keys; "
            f"chown {user} ~{user}/.ssh/authorized_keys",
            stdin=f"{options} {line}\n".encode(),
        )
        return JumpHost(host.address, user=user)

    async def test_a_host_that_is_not_reached_directly_lives_behind_its_jump_host(self) -> None:
        bastion, host = await self.host("bastion"), await self.host("inner")
        await self.hide(host)
        jump = JumpLogin(host=await self.let_in(bastion), fingerprint=await bastion.fingerprint())
        given = await host.fingerprint()
        with self.assertRaises(HostUnreachable):
            await self.add(self.new(host, fingerprint=given))

        added, job = await self.add(self.new(host, fingerprint=given, jumps=(jump,)))
        self.assertEqual(StepStatus.FINISHED, job.status, added.status_detail)
        up = await self.until(added.id, HostStatus.UP)
        self.assertEqual((jump.host,), up.ssh.jumps)
        proved = self.engine.hosts.authenticated(added.id)
        assert proved is not None
        self.assertEqual("pin", proved.mechanism)
        self.assertIn(f"from {bastion.address}", await host.ssh_log())
        self.assertFalse((bastion.root / "opt/pkagent").exists())
        await self.assert_event(EventCode.JUMP_KEY_LEARNT, bastion.address, str(jump.fingerprint))

        # By the engine's key, on both; and away again.
        again, job = await self.install(await self.maintain(up))
        self.assertEqual(StepStatus.FINISHED, job.status, again.status_detail)
        await self.engine.hosts.upkeep.restart_agent(added.id, SshLogin(), ADMIN)
        await self.maintain(await self.until(added.id, HostStatus.UP))
        await self.engine.hosts.maintenance.remove(added.id, ADMIN, uninstall=True)
        self.assertFalse((host.root / "opt/pkagent").exists())

    async def test_another_key_of_the_jump_host_is_told_apart_from_that_of_the_host(self) -> None:
        bastion, host = await self.host("bastion"), await self.host("inner")
        await self.hide(host)
        jump = JumpLogin(host=await self.let_in(bastion))
        added, _ = await self.add(
            self.new(host, fingerprint=await host.fingerprint(), jumps=(jump,))
        )
        await self.maintain(await self.until(added.id, HostStatus.UP))
        await bastion.rotate_host_keys()
        before = [await each.ssh_log() for each in (bastion, host)]
        with self.assertRaises(HostKeyMismatch) as caught:
            await self.install(added)
        said = str(caught.exception)
        self.assertTrue(said.startswith(f"At the jump host {jump.host}, on the way: "), said)
        self.assertIn(str(await bastion.fingerprint()), said)
        self.assertNotIn(jump.host.user, (await bastion.ssh_log()).removeprefix(before[0]))
        self.assertEqual(before[1], await host.ssh_log())
        self.assertEqual([], await self.engine.hosts.key_changes.list())
        await self.assert_event(EventCode.KEY_CHANGE_FOUND, "The way to Host inner was refused")

        # The right fingerprint, read on the console of the jump host, lets it go on.
        given = JumpLogin(host=jump.host, fingerprint=await bastion.fingerprint())
        again, job = await self.install(added, SshLogin(jumps=(given,)))
        self.assertEqual(StepStatus.FINISHED, job.status, again.status_detail)

        # And a changed key of the host behind it is its own.
        up = await self.until(added.id, HostStatus.UP)
        await self.maintain(up)
        await host.rotate_host_keys()
        with self.assertRaisesRegex(HostKeyMismatch, "^The SSH host key of"):
            await self.install(added)
        (change,) = await self.engine.hosts.key_changes.list()
        self.assertIn(await host.host_key("ecdsa"), change.new_keys)
        self.assertIn(f"through {jump.host}", change.seen_at)


class CertificateTests(WaysTestCase):
    async def certify(self, host: TestHost, name: str = "") -> str:
        """Give a host a certificate, and give the line of the authority that signed it."""
        await host.run(
            "cd /root; [ -f ca ] || ssh-keygen -q -t ed25519 -N '' -f ca; "
            f"ssh-keygen -q -s ca -I {host.name} -h -n {name or host.address} "
            "/etc/ssh/ssh_host_ed25519_key.pub"
        )
        await host.restart_sshd("HostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub")
        return (await host.run("cut -d' ' -f1,2 /root/ca.pub")).strip()

    async def test_a_host_with_a_certificate_is_added_and_replaced_without_a_question(
        self,
    ) -> None:
        host = await self.host("one")
        authority = await self.certify(host)
        await self.know(f"@cert-authority * {authority}\n")
        (shown, *_) = await self.engine.hosts.ssh_host_keys(host.address, 22, (), ADMIN)
        self.assertEqual(HostKeySource.CERTIFICATE, shown.source)
        added, job = await self.add(self.new(host))
        self.assertEqual(StepStatus.FINISHED, job.status, added.status_detail)
        self.assertEqual(HostKeySource.CERTIFICATE, added.ssh.key_source)
        self.assertEqual(await host.host_key(), added.ssh.public_key)
        await self.assert_event(EventCode.HOST_ADDED, "vouched for by a certificate")

        await self.maintain(added)
        await host.rotate_host_keys()
        await self.certify(host)
        again, job = await self.install(added)
        self.assertEqual(StepStatus.FINISHED, job.status, again.status_detail)
        self.assertEqual(await host.host_key(), again.ssh.public_key)
        await self.assert_event(EventCode.HOST_KEY_ROTATED, "Host one", "by a certificate")

    async def test_a_certificate_for_another_name_or_by_a_revoked_authority_is_none(self) -> None:
        host = await self.host("one")
        authority = await self.certify(host, "192.0.2.99")
        await self.know(f"@cert-authority * {authority}\n")
        with self.assertRaisesRegex(HostKeyMismatch, "it is for 192.0.2.99"):
            await self.add(self.new(host))
        await self.certify(host)
        await self.know(f"@revoked * {authority}\n")
        with self.assertRaises(HostKeyRevoked):
            await self.add(self.new(host))
        self.assertNotIn("root", await host.ssh_log())
        await self.assert_unknown(host)


class KnownHostsTests(WaysTestCase):
    async def test_an_imported_key_lets_a_host_in_and_a_revoked_one_keeps_it_out(self) -> None:
        host, other = await self.host("one"), await self.host("two")
        await self.know(f"{host.address} {await other.host_key()}\n")
        with self.assertRaises(HostKeyMismatch):
            await self.add(self.new(host))
        (wrong,) = await self.engine.hosts.known_keys.list()
        await self.engine.hosts.known_keys.remove(wrong.id, ADMIN)

        scanned = await other.run(f"ssh-keyscan -H {host.address} 2>/dev/null")
        self.assertNotIn(host.address, scanned)
        await self.know(scanned)
        added, job = await self.add(self.new(host))
        self.assertEqual(StepStatus.FINISHED, job.status, added.status_detail)
        self.assertEqual(HostKeySource.KNOWN_HOSTS, added.ssh.key_source)

        # OpenSSH's own client believes what is exported.
        exported = str(await self.engine.hosts.known_keys.export())
        await other.run("cat > /root/exported", stdin=exported.encode())
        said = await other.run(
            "ssh -o StrictHostKeyChecking=yes -o UserKnownHostsFile=/root/exported "
            f"-o BatchMode=yes -o PreferredAuthentications=none {host.address} true 2>&1 || true"
        )
        self.assertIn("Permission denied", said)
        self.assertNotIn("verification failed", said)

        await self.maintain(await self.until(added.id, HostStatus.UP))
        assert added.ssh.public_key is not None
        await self.know(f"@revoked * {added.ssh.public_key}\n")
        with self.assertRaises(HostKeyRevoked):
            await self.install(added)
