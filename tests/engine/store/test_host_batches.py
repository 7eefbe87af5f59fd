"""Lists of hosts in the database: nothing of a host is lost but its password."""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from dataclasses import replace

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.model import (
    BatchRow,
    BatchStage,
    HostBatch,
    HostConnection,
    JumpHost,
    JumpLogin,
    NewHost,
    RowJudgement,
    RowOutcome,
    SshLogin,
    WayChoice,
)
from pkengine.engine.store import Store
from pkengine.engine.store import host_batches as queries
from pkengine.keys import SshFingerprint
from tests.engine.hosts.fakes import HOST_KEY
from tests.engine.store.inline import InlineReactor, InlineThreads

FINGERPRINT = HOST_KEY.fingerprint()
WANTED = NewHost(
    name="h1",
    address="192.0.2.1",
    port=1234,
    comment="in rack 7",
    description="a host",
    cluster_id=uuid.uuid4(),
    ssh=SshLogin(
        port=2222,
        user="admin",
        fingerprint=FINGERPRINT,
        public_key=HOST_KEY,
        jumps=(JumpLogin(host=JumpHost("192.0.2.2", 22, "jump"), fingerprint=FINGERPRINT),),
    ),
    require_direct=True,
    way=WayChoice(connection=HostConnection.AGENT_DIALS, mechanism="hmac"),
)
#: What a start says, for all hosts, and a list does not.
NOT_KEPT = {"activate", "reboot"}
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


class BatchQueryTests(SynchronousTestCase):
    def setUp(self) -> None:
        url = f"sqlite:///{self.mktemp()}"
        self.store = self.now(Store.open(InlineReactor(), url, threads=InlineThreads()))
        self.addCleanup(lambda: self.now(self.store.close()))

    def now(self, work):
        return self.successResultOf(Deferred.fromCoroutine(work))

    def insert(self, *rows: BatchRow, minutes: int = 0, stage=BatchStage.ENDED) -> uuid.UUID:
        batch = HostBatch(
            id=uuid.uuid4(),
            stage=stage,
            created=START + datetime.timedelta(minutes=minutes),
            user="admin@internal",
        )
        self.now(self.store.write(queries.insert_batch, batch, rows))
        return batch.id

    def test_all_that_is_known_of_a_row_comes_back(self) -> None:
        for field in dataclasses.fields(WANTED):
            if field.name not in NOT_KEPT:
                self.assertNotEqual(field.default, getattr(WANTED, field.name), field.name)
        row = BatchRow(
            number=1,
            wanted=WANTED,
            judgement=RowJudgement.OTHER_TYPE,
            expected=SshFingerprint.parse(str(FINGERPRINT)),
            found=(HOST_KEY,),
            outcome=RowOutcome.FAILED,
            detail="Why it failed.",
            host_id=uuid.uuid4(),
        )
        plain = BatchRow(number=2, wanted=NewHost(name="h2", address="192.0.2.3"))
        batch = self.insert(row, plain)
        self.assertEqual([row, plain], self.now(self.store.read(queries.rows_of, batch)))
        changed = replace(plain, judgement=RowJudgement.MATCH, outcome=RowOutcome.ADDED)
        self.now(self.store.write(queries.update_row, batch, changed))
        self.assertEqual([row, changed], self.now(self.store.read(queries.rows_of, batch)))

    def test_the_oldest_that_has_ended_makes_room_for_a_new_one(self) -> None:
        row = BatchRow(number=1, wanted=WANTED)
        busy = self.insert(row, stage=BatchStage.ADDING)
        oldest = self.insert(row, minutes=1)
        for minutes in range(2, queries.MOST_KEPT + 2):
            newest = self.insert(row, minutes=minutes)
        kept = [batch.id for batch in self.now(self.store.read(queries.batches))]
        self.assertEqual((newest, busy), (kept[0], kept[-1]))
        self.assertNotIn(oldest, kept)
        self.assertEqual(queries.MOST_KEPT + 1, len(kept))  # one is at work
        self.assertEqual([], self.now(self.store.read(queries.rows_of, oldest)))
