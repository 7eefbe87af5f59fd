"""Lists of real hosts, some of which cannot be reached, and an engine that stops in between."""

from __future__ import annotations

from dataclasses import replace

from twisted.internet.defer import Deferred

from pkengine.engine.hosts.batch_request import BatchStart
from pkengine.engine.model import (
    BatchStage,
    Host,
    HostStatus,
    NewHost,
    RowJudgement,
    RowOutcome,
    SshLogin,
    StepStatus,
)
from tests.hosts import Host as TestHost
from tests.integration.engine_case import ADMIN, EngineTestCase


class BatchTests(EngineTestCase):
    async def wanted(self, host: TestHost) -> NewHost:
        new = await self.request(host)
        return replace(new, ssh=replace(new.ssh, password=None))

    async def reviewed(self, *wanted: NewHost) -> dict[str, RowJudgement | None]:
        batch = await self.engine.host_batches.add(wanted, ADMIN)
        self.batch_id = batch.id
        assert batch.job_id is not None
        await self.ended(await self.engine.jobs.get(batch.job_id))
        rows = await self.engine.host_batches.rows(batch.id)
        return {row.wanted.name: row.judgement for row in rows}

    async def outcomes(self) -> dict[str, RowOutcome]:
        rows = await self.engine.host_batches.rows(self.batch_id)
        return {row.wanted.name: row.outcome for row in rows}

    def start_with(self, host: TestHost, **more: int) -> BatchStart:
        return BatchStart(login=SshLogin(password=host.password["root"]), **more)

    async def test_those_that_are_there_are_added_and_the_others_are_told(self) -> None:
        one, two = await self.host("one"), await self.host("two")
        gone = replace(await self.wanted(two), name="gone", address="127.0.0.9")
        judgements = await self.reviewed(await self.wanted(one), await self.wanted(two), gone)
        self.assertEqual(
            {
                "one": RowJudgement.MATCH,
                "two": RowJudgement.MATCH,
                "gone": RowJudgement.UNREACHABLE,
            },
            judgements,
        )
        self.assertNotIn("Accepted", await one.ssh_log())
        # Each host has a password of its own, so each start is let in by one of them.
        for host, left, status in (
            (one, {"two": RowOutcome.FAILED, "gone": RowOutcome.WAITING}, StepStatus.FAILED),
            (two, {"gone": RowOutcome.WAITING}, StepStatus.FINISHED),
        ):
            job = await self.engine.host_batches.begin(self.batch_id, self.start_with(host), ADMIN)
            self.assertEqual(status, (await self.ended(job)).status)
            outcomes = await self.outcomes()
            added = {name for name, outcome in outcomes.items() if outcome is RowOutcome.ADDED}
            self.assertEqual(left, {n: o for n, o in outcomes.items() if n not in added})
        for host in await self.engine.hosts.list():
            await self.until(host.id, HostStatus.UP)
        self.assertEqual(2, len(await self.engine.hosts.list()))

    async def test_what_an_engine_that_stops_left_is_done_by_starting_the_list_again(self) -> None:
        one = await self.host("one")
        await self.reviewed(await self.wanted(one))
        await one.slow("2mbit")
        begun: Deferred[None] = Deferred()

        def changed(_: Host) -> None:
            if not begun.called:
                begun.callback(None)

        end = self.engine.hosts.subscribe(changed, lambda _: None)
        await self.engine.host_batches.begin(self.batch_id, self.start_with(one), ADMIN)
        await begun
        end()
        await self.stop_engine()
        await self.start_engine()
        batch = await self.engine.host_batches.get(self.batch_id)
        self.assertEqual(BatchStage.INTERRUPTED, batch.stage)
        self.assertEqual({"one": RowOutcome.FAILED}, await self.outcomes())
        await one.slow("1gbit")
        job = await self.ended(
            await self.engine.host_batches.begin(self.batch_id, self.start_with(one), ADMIN)
        )
        self.assertEqual(StepStatus.FINISHED, job.status)
        self.assertEqual({"one": RowOutcome.ADDED}, await self.outcomes())
        (host,) = await self.engine.hosts.list()
        await self.until(host.id, HostStatus.UP)
