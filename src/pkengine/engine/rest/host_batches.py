"""Lists of hosts that are reviewed and added together."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

from pkengine.engine.clusters import Clusters
from pkengine.engine.hosts.batch_request import BatchStart
from pkengine.engine.hosts.batches import HostBatches
from pkengine.engine.model import BatchRow, BatchStage, NewHost, RowJudgement, RowOutcome
from pkengine.engine.rest.action_elements import ACTION, ActionResult
from pkengine.engine.rest.call import Answer, Call, Route
from pkengine.engine.rest.elements import HOST_REFERENCE, JOB_REFERENCE, SSH, SSH_KEY, text_of
from pkengine.engine.rest.host_elements import HOST
from pkengine.engine.rest.host_references import read_cluster_id, read_login, read_new_host
from pkengine.engine.rest.job_actions import JobActions
from pkengine.engine.rest.schema import (
    BOOLEAN,
    INTEGER,
    LINE,
    MOMENT,
    SECRET,
    TEXT,
    Document,
    Element,
    Enumerated,
    Field,
    IncompleteParameters,
    Integer,
    ListOf,
)
from pkengine.engine.users import Role
from pkengine.errors import BadRequest, PkengineError


def _counts(name: str) -> Callable[[Any], Iterable[tuple[Enum, int]]]:
    def counts(batch: Any) -> Iterable[tuple[Enum, int]]:
        found: Mapping[Enum, int] = getattr(batch, name)
        return sorted(found.items(), key=lambda item: str(item[0].value))

    return counts


_COUNT = Element(
    "count",
    fields=(
        Field("name", LINE, lambda item: item[0].value),
        Field("hosts", INTEGER, lambda item: item[1]),
    ),
)

HOST_BATCH = Element(
    "host_batch",
    "host_batches",
    id=attrgetter("id"),
    href=lambda batch: f"/hostbatches/{batch.id}",
    actions=("review", "start"),
    collections=("hosts",),
    fields=(
        Field("stage", Enumerated(BatchStage), attrgetter("stage")),
        Field("created", MOMENT, attrgetter("created")),
        Field("user_name", LINE, text_of("user")),
        Field("size", INTEGER, attrgetter("size")),
        Field("judgements", ListOf("count", _COUNT), _counts("judgements")),
        Field("outcomes", ListOf("count", _COUNT), _counts("outcomes")),
        Field(
            "job",
            JOB_REFERENCE,
            lambda batch: SimpleNamespace(id=batch.job_id) if batch.job_id else None,
        ),
        Field("hosts", ListOf("host", HOST), is_read=True),
    ),
)


def _host_of(row: BatchRow) -> Any:
    if row.host_id is None:
        return None
    return SimpleNamespace(host_id=row.host_id, host_name=row.wanted.name)


BATCH_HOST = Element(
    "batch_host",
    "batch_hosts",
    fields=(
        Field("number", INTEGER, attrgetter("number")),
        Field("name", LINE, attrgetter("wanted.name")),
        Field("address", LINE, attrgetter("wanted.address")),
        Field("judgement", Enumerated(RowJudgement), attrgetter("judgement")),
        Field("expected", LINE, text_of("expected")),
        Field("found", ListOf("ssh_key", SSH_KEY), attrgetter("found")),
        Field("outcome", Enumerated(RowOutcome), attrgetter("outcome")),
        Field("detail", TEXT, text_of("detail")),
        Field("host", HOST_REFERENCE, _host_of),
    ),
)

_START = Element(
    "action",
    fields=(
        Field("ssh", SSH, is_read=True),
        Field("root_password", SECRET, is_read=True),
        Field("activate", BOOLEAN, is_read=True),
        Field(
            "hosts",
            ListOf(
                "host",
                Element("host", fields=(Field("name", LINE, is_read=True),), is_open=True),
            ),
            is_read=True,
        ),
        Field("trust_on_first_use", BOOLEAN, is_read=True),
        Field("parallel", Integer(1, 64), is_read=True),
        Field("async", BOOLEAN, is_read=True),
    ),
)


class HostBatchResource:
    """``/hostbatches``.

    Args:
        batches: the lists.
        clusters: where their hosts go.
        actions: answers what begins a job.
    """

    def __init__(self, batches: HostBatches, clusters: Clusters, actions: JobActions) -> None:
        self._batches = batches
        self._clusters = clusters
        self._actions = actions

    def routes(self) -> Iterable[Route]:
        """Give the routes; adding hosts is deciding whom to trust."""
        one = "/hostbatches/<uuid:batch_id>"
        decides = Role.ADMINISTRATOR
        yield Route(
            method="GET",
            path="/hostbatches",
            handler=self.list,
            element=HOST_BATCH,
            is_many=True,
        )
        yield Route(
            method="POST",
            path="/hostbatches",
            handler=self.add,
            role=decides,
            element=HOST_BATCH,
            reads=HOST_BATCH,
            status=201,
        )
        yield Route(method="GET", path=one, handler=self.get, element=HOST_BATCH)
        yield Route(method="DELETE", path=one, handler=self.remove, role=decides)
        yield Route(
            method="GET",
            path=f"{one}/hosts",
            handler=self.hosts,
            element=BATCH_HOST,
            is_many=True,
        )
        for name, handler, reads in (
            ("review", self.review, ACTION),
            ("start", self.start, _START),
        ):
            yield Route(
                method="POST",
                path=f"{one}/{name}",
                handler=handler,
                role=decides,
                is_action=True,
                reads=reads,
            )

    async def list(self, call: Call) -> Answer:
        """Give the lists, the newest first."""
        batches = await self._batches.list()
        return Answer(element=HOST_BATCH, many=batches[: call.limit(None)])

    async def get(self, call: Call, batch_id: uuid.UUID) -> Answer:
        """Give one list, without its hosts."""
        return Answer(element=HOST_BATCH, one=await self._batches.get(batch_id))

    async def hosts(self, call: Call, batch_id: uuid.UUID) -> Answer:
        """Give the hosts of a list: what was expected, what was found, and what became of it."""
        rows = await self._batches.rows(batch_id)
        return Answer(element=BATCH_HOST, many=rows[: call.limit(None)])

    async def add(self, call: Call) -> Answer:
        """Take a list of hosts, without passwords, and begin to look at their SSH keys."""
        documents = call.read(HOST_BATCH).get("hosts")
        if documents is None:
            raise IncompleteParameters("HostBatch [hosts] required for add.")
        clusters: dict[str, uuid.UUID | None] = {}
        wanted = [
            await self._read(number, document, clusters)
            for number, document in enumerate(documents, 1)
        ]
        batch = await self._batches.add(wanted, call.origin)
        return Answer(
            element=HOST_BATCH, one=batch, status=201, location=f"/hostbatches/{batch.id}"
        )

    async def _read(
        self, number: int, document: Document, clusters: dict[str, uuid.UUID | None]
    ) -> NewHost:
        try:
            reference = document.get("cluster")
            if str(reference) not in clusters:
                clusters[str(reference)] = await read_cluster_id(self._clusters, reference)
            return read_new_host(document, clusters[str(reference)])
        except PkengineError as error:
            raise BadRequest(f"The list cannot be taken. Host {number}: {error}") from error

    async def remove(self, call: Call, batch_id: uuid.UUID) -> Answer:
        """Forget a list; the hosts that were added stay."""
        await self._batches.remove(batch_id)
        return Answer(element=ACTION, one=ActionResult())

    async def review(self, call: Call, batch_id: uuid.UUID) -> Answer:
        """Look again at the hosts of a list that were not added."""
        document = call.read(ACTION, is_optional=True)
        job = await self._batches.review(batch_id, call.origin)
        return await self._actions.done(call, document, job)

    async def start(self, call: Call, batch_id: uuid.UUID) -> Answer:
        """Begin to add the hosts of a list whose keys are the expected ones, or those named."""
        document = call.read(_START, is_optional=True)
        named = document.get("hosts")
        start = BatchStart(
            login=read_login(document),
            names=None if named is None else [host.get("name", "") for host in named],
            trust_on_first_use=document.get("trust_on_first_use", False),
            activate=document.get("activate", True),
            parallel=document.get("parallel", 8),
        )
        job = await self._batches.begin(batch_id, start, call.origin)
        return await self._actions.done(call, document, job)
