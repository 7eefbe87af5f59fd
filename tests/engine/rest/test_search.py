"""The search language."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.rest.search import InvalidSearch, parse


@dataclass(frozen=True)
class Thing:
    name: str
    size: int = 0
    note: str | None = None


FIELDS = {
    "name": lambda thing: thing.name,
    "size": lambda thing: thing.size,
    "note": lambda thing: thing.note,
}
THINGS = [
    Thing("web1", 3, "two words"),
    Thing("web2", 20),
    Thing("db1", 100, "web"),
    Thing("DB2", 5),
]


def names(text: str, limit: int | None = None, *, case_sensitive: bool = False) -> list[str]:
    search = parse(text, FIELDS, case_sensitive=case_sensitive)
    return [thing.name for thing in search.apply(THINGS, limit)]


class SearchTests(SynchronousTestCase):
    def test_conditions(self) -> None:
        for text, found in (
            ("name=web1", ["web1"]),
            ('name="web1"', ["web1"]),
            ("NAME = WEB1", ["web1"]),
            ("name=web*", ["web1", "web2"]),
            ("name=*b1", ["web1", "db1"]),
            ("name=w*b*1", ["web1"]),
            ("name!=web*", ["db1", "DB2"]),
            ("name != web1 and name != web2", ["db1", "DB2"]),
            ("name=web1 or name=db1 and size=0", ["web1"]),
            ("(name=web1 or name=db1) and size=100", ["db1"]),
            ('note="two words"', ["web1"]),
            ("size>5", ["web2", "db1"]),
            ("size >= 5 and size < 100", ["web2", "DB2"]),
            ("web", ["db1"]),
            ("web*", ["web1", "web2", "db1"]),
            ("things", []),
            ("note!=web", ["web1", "web2", "DB2"]),
            ("name=and", []),
        ):
            self.assertEqual(names(text), found, text)

    def test_order_and_pages(self) -> None:
        for text, limit, found in (
            ("sortby name", None, ["db1", "DB2", "web1", "web2"]),
            ("sortby size desc", None, ["db1", "web2", "DB2", "web1"]),
            ("name=web* sortby size desc", None, ["web2", "web1"]),
            ("sortby name asc page 2", 3, ["web2"]),
            ("page 2", 2, ["db1", "DB2"]),
            ("page 9", 2, []),
            ("page 2", None, []),
            ("Hosts: name=web1", None, ["web1"]),
            ("hosts:", None, ["web1", "web2", "db1", "DB2"]),
        ):
            self.assertEqual(names(text, limit), found, text)

    def test_case_counts_where_that_was_asked_for(self) -> None:
        self.assertEqual(names("name=db*", case_sensitive=True), ["db1"])

    def test_what_is_not_in_the_language_is_refused(self) -> None:
        for text in (
            "colour=red",
            "name=",
            "name=web1 and",
            "=web1",
            "(name=web1",
            "name=web1)",
            'name="web1',
            "sortby",
            "sortby colour",
            "page 0",
            "page x",
            "page 1 name=web1",
            "(" * 100,
            "x" * 3000,
        ):
            with self.assertRaises(InvalidSearch, msg=text):
                parse(text, FIELDS)

    @given(st.text(alphabet='ab*()=!<>" andorsortbypage12', max_size=60))
    def test_any_text_is_a_search_or_is_refused(self, text: str) -> None:
        with contextlib.suppress(InvalidSearch):
            names(text, 2)

    @given(st.text(alphabet="ab", max_size=12), st.text(alphabet="ab*", min_size=1, max_size=8))
    def test_stars_match_as_they_do_in_a_shell(self, name: str, pattern: str) -> None:
        found = parse(f'name="{pattern}"', FIELDS).apply([Thing(name)], None)
        self.assertEqual(bool(found), fnmatchcase(name, pattern))
