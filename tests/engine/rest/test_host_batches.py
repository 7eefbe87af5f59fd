"""Lists of hosts over the API: reviewed without a password, added with one, resumed."""

from __future__ import annotations

import hashlib
import struct
from typing import Any
from xml.sax.saxutils import escape

from twisted.trial.unittest import TestCase

from pkengine.engine.hosts.batches import HostBatches
from pkengine.engine.model import HostStatus
from pkengine.errors import HostUnreachable, SshAuthenticationFailed
from pkengine.keys import SshPublicKey
from tests.engine.rest.served import Reply, ServedEngine


def key_of(address: str) -> SshPublicKey:
    """Give the one SSH key that the host at an address has in these tests."""
    blob = b"".join(
        struct.pack(">I", len(part)) + part
        for part in (b"ssh-ed25519", hashlib.sha256(address.encode()).digest())
    )
    return SshPublicKey.from_blob(blob)


def fingerprint_of(address: str) -> str:
    return str(key_of(address).fingerprint())


class BatchTestCase(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)
        self.unreachable: set[str] = set()
        self.same: dict[str, str] = {}
        self.looks = 0
        self.patch(self.engine.network, "host_keys", self.host_keys)

    async def host_keys(self, address: str, port: int, *, through: Any = None) -> Any:
        self.looks += 1
        if address in self.unreachable:
            raise HostUnreachable(f"No SSH server answers at {address}.")
        return [key_of(self.same.get(address, address))]

    async def post(self, *hosts: dict[str, Any], **options: Any) -> Reply:
        return await self.engine.request(
            "POST",
            "/hostbatches",
            {"hosts": {"host": list(hosts)}},
            accept="application/json",
            **options,
        )

    async def reviewed(self, *hosts: dict[str, Any]) -> str:
        reply = await self.post(*hosts)
        self.assertEqual(201, reply.status, reply)
        batch = await self.engine.get_json(f"/hostbatches/{reply.json()['id']}")
        self.assertEqual("reviewed", batch["stage"])
        return str(batch["id"])

    async def rows(self, batch: str) -> list[dict[str, Any]]:
        found = await self.engine.get_json(f"/hostbatches/{batch}/hosts")
        rows: list[dict[str, Any]] = found["batch_host"]
        return rows

    async def judgements(self, batch: str) -> dict[str, str]:
        return {row["name"]: row["judgement"] for row in await self.rows(batch)}

    async def outcomes(self, batch: str) -> dict[str, str]:
        return {row["name"]: row["outcome"] for row in await self.rows(batch)}

    async def begin(self, batch: str, **more: Any) -> Reply:
        body = {"root_password": "the hosts' secret", **more}
        return await self.engine.request(
            "POST", f"/hostbatches/{batch}/start", body, accept="application/json"
        )

    def host(self, number: int, **more: Any) -> dict[str, Any]:
        address = f"192.0.2.{number}"
        return {
            "name": f"h{number}",
            "address": address,
            "ssh": {"fingerprint": fingerprint_of(address)},
            **more,
        }


class ReviewTests(BatchTestCase):
    async def test_every_host_is_judged_and_nobody_is_logged_in_to(self) -> None:
        self.unreachable.add("192.0.2.4")
        await self.engine.add_host_that_is_up("there")
        wrong = {"fingerprint": fingerprint_of("elsewhere")}
        other_type = SshPublicKey.parse("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQA=")
        batch = await self.reviewed(
            self.host(11),
            self.host(2, ssh=wrong),
            self.host(3, ssh={}),
            self.host(4),
            self.host(5, ssh={"public_key": str(other_type)}),
            {"name": "there", "address": "192.0.2.1"},
        )
        self.assertEqual(
            {
                "h11": "match",
                "h2": "mismatch",
                "h3": "first use",
                "h4": "unreachable",
                "h5": "other key type",
                "there": "there already",
            },
            await self.judgements(batch),
        )
        rows = {row["name"]: row for row in await self.rows(batch)}
        self.assertEqual(wrong["fingerprint"], rows["h2"]["expected"])
        (found,) = rows["h2"]["found"]["ssh_key"]
        self.assertEqual(fingerprint_of("192.0.2.2"), found["fingerprint"])
        self.assertIn("No SSH server answers", rows["h4"]["detail"])
        self.assertEqual(1, len(self.engine.network.logins))  # that of the host before
        shown = await self.engine.get_json(f"/hostbatches/{batch}")
        counts = {item["name"]: item["hosts"] for item in shown["judgements"]["count"]}
        self.assertEqual("1", counts["match"])
        self.assertEqual("6", shown["size"])

    async def test_a_way_to_connect_is_kept_for_each_host_and_one_that_is_none_is_refused(
        self,
    ) -> None:
        batch = await self.reviewed(
            self.host(1, connection="agent-dials", mechanism="hmac"), self.host(2)
        )
        await self.begin(batch)
        found = (await self.engine.get_json("/hosts"))["host"]
        ways = {host["name"]: (host["connection"], host["mechanism"]) for host in found}
        self.assertEqual({"h1": ("agent-dials", "hmac"), "h2": ("engine-dials", "pin")}, ways)
        hosts = {"host": [self.host(3, connection="engine-dials", mechanism="sign")]}
        reply = await self.engine.request("POST", "/hostbatches", {"hosts": hosts})
        self.assertEqual(400, reply.status)
        self.assertIn("needs the connection 'agent-dials'", reply.fault()[1])

    async def test_it_is_there_in_xml_too(self) -> None:
        hosts = "".join(
            f"<host><name>h{n}</name><address>192.0.2.{n}</address><ssh><fingerprint>"
            f"{escape(fingerprint_of(f'192.0.2.{n}'))}</fingerprint></ssh></host>"
            for n in (1, 2)
        )
        reply = await self.engine.request(
            "POST", "/hostbatches", f"<host_batch><hosts>{hosts}</hosts></host_batch>"
        )
        self.assertEqual(201, reply.status)
        path = reply.headers["location"].removeprefix("/ovirt-engine/api")
        rows = (await self.engine.get(f"{path}/hosts")).xml()
        self.assertEqual(["match", "match"], [row.findtext("judgement") for row in rows])
        (listed,) = (await self.engine.get("/hostbatches")).xml()
        self.assertEqual(("2", "reviewed"), (listed.findtext("size"), listed.findtext("stage")))

    async def test_two_names_of_one_machine_are_noticed_by_its_key(self) -> None:
        self.same["www.example.com"] = "192.0.2.1"
        batch = await self.reviewed(
            self.host(1), {"name": "www", "address": "www.example.com", "comment": "its name"}
        )
        self.assertEqual({"h1": "match", "www": "conflict"}, await self.judgements(batch))
        (row,) = [row for row in await self.rows(batch) if row["name"] == "www"]
        self.assertIn("the SSH host key of h1", row["detail"])

    async def test_a_name_or_an_address_that_a_host_has_is_a_conflict(self) -> None:
        await self.engine.add_host_that_is_up("there")
        batch = await self.reviewed(
            {"name": "there", "address": "192.0.2.77"}, {"name": "new", "address": "192.0.2.1"}
        )
        self.assertEqual({"there": "conflict", "new": "conflict"}, await self.judgements(batch))

    async def test_all_that_is_wrong_is_told_at_once_and_nothing_is_looked_at(self) -> None:
        reply = await self.post(
            self.host(1),
            {"name": "", "address": "192.0.2.9"},
            {"name": "h3"},
            self.host(1) | {"name": "again"},
            self.host(4) | {"name": "h1"},
            {"name": "a b", "address": "x"},
            self.host(7, root_password="a password"),
        )
        self.assertEqual(400, reply.status)
        _, detail = reply.fault()
        for part in (
            "Host 2: Host [name] required",
            "Host 3: Host [address] required",
            "Host 4: The address 192.0.2.1 is that of host 1",
            "Host 5: The name h1 is that of host 1",
            "Host 6: The Host name 'a b' is malformed",
            "Host 7: A password is not stored",
        ):
            self.assertIn(part, detail)
        self.assertNotIn("a password'", detail)
        self.assertEqual(0, self.looks)
        self.assertEqual({"host_batch": []}, await self.engine.get_json("/hostbatches"))

    async def test_an_empty_list_and_a_malformed_key_are_refused(self) -> None:
        self.assertEqual(400, (await self.post()).status)
        reply = await self.post(self.host(1), self.host(2, ssh={"fingerprint": "SHA256:?"}))
        self.assertEqual(400, reply.status)
        self.assertIn("Host 2: 'SHA256:?' is not an SSH fingerprint", reply.fault()[1])

    async def test_ten_thousand_hosts_are_taken_and_one_more_is_not(self) -> None:
        hosts = [
            {"name": f"h{n}", "address": f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"}
            for n in range(10_001)
        ]
        reply = await self.post(*hosts)
        self.assertEqual(400, reply.status)
        self.assertIn("at most 10000", reply.fault()[1])
        self.unreachable = {host["address"] for host in hosts[::2]}
        batch = await self.reviewed(*hosts[:10_000])
        shown = await self.engine.get_json(f"/hostbatches/{batch}")
        counts = {item["name"]: item["hosts"] for item in shown["judgements"]["count"]}
        self.assertEqual({"first use": "5000", "unreachable": "5000"}, counts)

    async def test_only_administrators_make_lists(self) -> None:
        await self.engine.request(
            "POST",
            "/users",
            {"user_name": "op", "password": "correct horse battery", "role": "operator"},
        )
        authorization = self.engine.basic("op@internal", "correct horse battery")
        self.assertEqual(403, (await self.post(self.host(1), authorization=authorization)).status)


class StartTests(BatchTestCase):
    async def end_all(self, *failures: int) -> None:
        """Let all installations end that have begun, and those that begin by that."""
        number = 0
        while self.engine.network.deployments:
            number += 1
            is_failure = number in failures
            self.engine.finish_deployment(
                SshAuthenticationFailed("sudo refuses.") if is_failure else None
            )

    async def test_those_with_the_expected_key_are_added_a_few_at_a_time(self) -> None:
        batch = await self.reviewed(*(self.host(n) for n in range(1, 6)), self.host(9, ssh={}))
        reply = await self.begin(batch, parallel=2)
        self.assertEqual(200, reply.status, reply)
        self.assertEqual(2, len(self.engine.network.deployments))
        await self.end_all()
        job = await self.engine.get_json(f"/jobs/{reply.json()['job']['id']}")
        self.assertEqual("finished", job["status"])
        steps = (await self.engine.get_json(f"/jobs/{job['id']}/steps"))["step"]
        self.assertEqual({f"Host h{n}" for n in range(1, 6)}, {s["description"] for s in steps})
        outcomes = await self.outcomes(batch)
        self.assertEqual("waiting", outcomes.pop("h9"))
        self.assertEqual({"added"}, set(outcomes.values()))
        hosts = await self.engine.hosts.list()
        self.assertEqual({HostStatus.UP}, {host.status for host in hosts})
        shown = await self.engine.get_json(f"/hostbatches/{batch}")
        self.assertEqual("ended", shown["stage"])

    async def test_what_was_shown_and_confirmed_is_what_is_trusted(self) -> None:
        batch = await self.reviewed(self.host(1, ssh={}), self.host(2, ssh={}))
        self.assertEqual(409, (await self.begin(batch)).status)
        await self.begin(batch, hosts={"host": [{"name": "h2"}]})
        await self.end_all()
        ((_, policy, _, _),) = self.engine.network.logins
        self.assertEqual(key_of("192.0.2.2").fingerprint(), policy.given)
        self.assertEqual({"h1": "waiting", "h2": "added"}, await self.outcomes(batch))
        self.assertEqual(200, (await self.begin(batch, trust_on_first_use=True)).status)
        await self.end_all()
        self.assertEqual({"h1": "added", "h2": "added"}, await self.outcomes(batch))

    async def test_a_host_with_another_key_is_not_added_whoever_names_it(self) -> None:
        wrong = {"fingerprint": fingerprint_of("elsewhere")}
        batch = await self.reviewed(self.host(1, ssh=wrong), self.host(2))
        for name, part in (("h1", "'mismatch'"), ("nobody", "no host 'nobody'")):
            reply = await self.begin(batch, hosts={"host": [{"name": name}]})
            self.assertEqual(400, reply.status)
            self.assertIn(part, reply.fault()[1])
        self.assertEqual([], self.engine.network.logins)

    async def test_one_that_fails_is_told_and_installed_again_by_the_next_start(self) -> None:
        batch = await self.reviewed(self.host(1), self.host(2))
        await self.begin(batch, parallel=1)
        await self.end_all(2)
        self.assertEqual({"h1": "added", "h2": "failed"}, await self.outcomes(batch))
        self.assertIn("sudo refuses.", (await self.rows(batch))[1]["detail"])
        await self.begin(batch)
        await self.end_all()
        self.assertEqual({"h1": "added", "h2": "added"}, await self.outcomes(batch))
        self.assertEqual(2, len(await self.engine.hosts.list()))
        self.assertEqual(409, (await self.begin(batch)).status)

    async def test_a_refused_login_is_the_rows_detail(self) -> None:
        batch = await self.reviewed(self.host(1))
        self.engine.network.refusal = SshAuthenticationFailed("It does not accept the password.")
        reply = await self.begin(batch, **{"async": False})
        self.assertEqual(409, reply.status)
        (row,) = await self.rows(batch)
        self.assertEqual("failed", row["outcome"])
        self.assertIn("does not accept the password", row["detail"])
        self.assertNotIn("the hosts' secret", str(row))

    async def test_while_it_is_worked_on_nothing_else_is_done_with_it(self) -> None:
        batch = await self.reviewed(self.host(1))
        await self.begin(batch)
        self.assertEqual(409, (await self.begin(batch)).status)
        path = f"/hostbatches/{batch}"
        self.assertEqual(409, (await self.engine.request("DELETE", path)).status)
        self.assertEqual(409, (await self.engine.request("POST", f"{path}/review")).status)
        await self.end_all()
        self.assertEqual(200, (await self.engine.request("DELETE", path)).status)
        self.assertEqual(404, (await self.engine.get(path)).status)
        self.assertEqual(1, len(await self.engine.hosts.list()))

    async def test_a_review_that_is_repeated_finds_what_has_changed(self) -> None:
        self.unreachable.add("192.0.2.2")
        batch = await self.reviewed(self.host(1), self.host(2))
        self.assertEqual({"h1": "match", "h2": "unreachable"}, await self.judgements(batch))
        self.unreachable.clear()
        await self.engine.request("POST", f"/hostbatches/{batch}/review")
        self.assertEqual({"h1": "match", "h2": "match"}, await self.judgements(batch))

    async def test_no_password_is_in_the_database(self) -> None:
        batch = await self.reviewed(self.host(1))
        await self.begin(batch)
        await self.end_all()
        rows = await self.engine.store.read(
            lambda connection: [
                str(connection.exec_driver_sql(f"SELECT * FROM {table}").all())
                for table in ("host_batches", "batch_rows", "hosts", "jobs", "steps", "events")
            ]
        )
        self.assertNotIn("secret", "".join(rows))


class RestartTests(BatchTestCase):
    async def restart(self) -> HostBatches:
        """Let another engine take up what this one left."""
        await self.engine.host_batches.stop()
        again = HostBatches(
            hosts=self.engine.hosts,
            clusters=self.engine.clusters,
            store=self.engine.store,
            jobs=self.engine.jobs,
            clock=self.engine.clock,
        )
        await again.start()
        self.addCleanup(again.stop)
        return again

    async def test_what_was_being_added_waits_for_the_password_again(self) -> None:
        batch = await self.reviewed(self.host(1), self.host(2))
        await self.begin(batch, parallel=1)
        await self.restart()
        shown = await self.engine.get_json(f"/hostbatches/{batch}")
        self.assertEqual("interrupted", shown["stage"])
        self.assertEqual({"h1": "failed", "h2": "waiting"}, await self.outcomes(batch))
        self.assertIn("start the list again", (await self.rows(batch))[0]["detail"])

    async def test_a_review_goes_on_by_itself(self) -> None:
        batch = await self.reviewed(self.host(1))
        await self.engine.store.write(
            lambda connection: connection.exec_driver_sql(
                "UPDATE host_batches SET stage='reviewing'"
            )
        )
        before = self.looks
        await self.restart()
        self.assertEqual(before + 1, self.looks)
        shown = await self.engine.get_json(f"/hostbatches/{batch}")
        self.assertEqual("reviewed", shown["stage"])
