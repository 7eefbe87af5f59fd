"""Searches as SQL find what the same searches find in memory."""

from __future__ import annotations

import datetime
import uuid
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Uuid,
    create_engine,
    insert,
    select,
)
from sqlalchemy.pool import StaticPool
from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine import search as language
from pkengine.engine.rest import search as in_memory
from pkengine.engine.search import InvalidSearch
from pkengine.engine.store import search as in_sql
from pkengine.engine.store.schema import UtcDateTime

MORNING = datetime.datetime(2026, 1, 1, 6, tzinfo=datetime.timezone.utc)

things = Table(
    "things",
    MetaData(),
    Column("name", String, primary_key=True),
    Column("size", Integer),
    Column("note", String),
    Column("id", Uuid),
    Column("made", UtcDateTime),
)
COLUMNS: in_sql.Fields = {
    "name": in_sql.Texts(things.c.name),
    "size": in_sql.Numbers(things.c.size),
    "note": in_sql.Texts(things.c.note),
    "id": in_sql.Guids(things.c.id),
    "made": in_sql.Moments(things.c.made),
}


@dataclass(frozen=True)
class Thing:
    name: str
    size: int | None = 0
    note: str | None = None
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    made: datetime.datetime = MORNING


THINGS = [
    Thing("DB2", 5),
    Thing("a_b", 7, "50% [of] it?"),
    Thing("db1", 100, "web"),
    Thing("none", None, r"back\slash"),
    Thing("web1", 3, "two words", made=MORNING + datetime.timedelta(hours=6)),
    Thing("web2", 20),
]
FIELDS: in_memory.Fields = {
    "name": lambda thing: thing.name,
    "size": lambda thing: thing.size,
    "note": lambda thing: thing.note,
}


Pattern: TypeAlias = tuple[str, str, str, bool]

given_patterns = given(
    st.tuples(
        st.sampled_from(("name", "note")),
        st.sampled_from(("=", "!=", "~")),
        st.text(alphabet='*%_?[]\\abdewB12"', max_size=6),
        st.booleans(),
    )
)


class SqlSearchTests(SynchronousTestCase):
    def database(self) -> Engine:
        return create_engine("sqlite://", poolclass=StaticPool)

    def setUp(self) -> None:
        engine = self.database()
        self.addCleanup(engine.dispose)
        self.connection = engine.connect()
        self.addCleanup(self.connection.close)
        things.create(self.connection)
        self.connection.execute(insert(things), [asdict(thing) for thing in THINGS])

    def find(self, text: str, limit: int = 100, *, case_sensitive: bool = False) -> list[str]:
        search = language.parse(text, COLUMNS, case_sensitive=case_sensitive)
        statement = in_sql.apply(
            select(things.c.name),
            search,
            COLUMNS,
            self.connection,
            otherwise=things.c.name,
            limit=limit,
        )
        return list(self.connection.execute(statement).scalars())

    def check_pattern(self, pattern: Pattern) -> None:
        name, operator, value, case_sensitive = pattern
        text = f'{name} {operator} "{value.replace(chr(34), "")}"'
        expected = in_memory.parse(text, FIELDS, case_sensitive=case_sensitive)
        found = self.find(text, case_sensitive=case_sensitive)
        self.assertEqual(found, [thing.name for thing in expected.apply(THINGS, None)])

    @given_patterns
    def test_patterns_mean_the_same_in_sql_and_in_memory(self, pattern: Pattern) -> None:
        self.check_pattern(pattern)

    def test_conditions_mean_the_same_in_sql_and_in_memory(self) -> None:
        for text in (
            "",
            "name=web1 or name=db1 and size=0",
            "(name=web1 or name=db1) and size=100",
            "size>5",
            "size >= 5 and size < 100",
            "size=7",
            "size!=7",
            "name>c",
            "note<=x",
        ):
            expected = in_memory.parse(text, FIELDS).apply(THINGS, None)
            self.assertEqual(self.find(text), [thing.name for thing in expected], text)

    def test_value_without_a_field_is_looked_for_everywhere(self) -> None:
        self.assertEqual(self.find("web"), ["db1"])
        self.assertEqual(self.find("100"), ["db1"])
        self.assertEqual(self.find(str(THINGS[0].id)), ["DB2"])

    def test_order_and_pages(self) -> None:
        everything = self.find("sortby size desc")
        self.assertEqual(everything[:3], ["db1", "web2", "a_b"])
        pages = [self.find(f"sortby size desc page {page}", 2) for page in (1, 2, 3, 4)]
        self.assertEqual([name for page in pages for name in page], everything)
        self.assertEqual(self.find("sortby name", 2), ["a_b", "db1"])

    def test_moments_and_identifiers(self) -> None:
        self.assertEqual(self.find("made>2026-01-01T10:00:00Z"), ["web1"])
        self.assertEqual(self.find('made="2026-01-01T12:00:00"'), ["web1"])
        self.assertEqual(self.find("made>2026-01-01T13:00:00+02:00"), ["web1"])
        self.assertEqual(len(self.find("made != 2026-01-01T12:00:00")), 5)
        self.assertEqual(self.find(f"id={THINGS[2].id}"), ["db1"])
        self.assertEqual(self.find("id=web1"), [])
        self.assertEqual(len(self.find(f"id!={THINGS[2].id}")), 5)

    def test_values_that_do_not_fit_their_field_are_refused(self) -> None:
        for text in ("made>yesterday", "size>large", f"id>{uuid.uuid4()}", "made=99999999"):
            with self.assertRaises(InvalidSearch, msg=text):
                self.find(text)

    def test_longest_search_that_is_read_is_one_that_the_database_takes(self) -> None:
        self.assertEqual(self.find(" or ".join(["w*b1"] * 40)), ["web1"])
        with self.assertRaises(InvalidSearch):
            self.find(" or ".join(["w*b1"] * 41))
        deep = "(" * 50 + "name=web1" + ")" * 50
        self.assertEqual(self.find(deep), ["web1"])

    def test_quotes_do_not_leave_the_value(self) -> None:
        self.assertEqual(self.find("name=\"x' or '1'='1\""), [])
        self.assertEqual(self.find("name=x' or name=';drop"), [])
