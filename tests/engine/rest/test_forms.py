"""Elements as XML and JSON, apart from any engine."""

from __future__ import annotations

import datetime
import enum
import json
from collections.abc import AsyncIterator
from operator import attrgetter
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.rest import json_form, xml_form
from pkengine.engine.rest.schema import (
    BOOLEAN,
    INTEGER,
    LINE,
    MOMENT,
    SECRET,
    TEXT,
    Element,
    Enumerated,
    Field,
    InvalidValue,
    ListOf,
    ignored,
)
from pkengine.errors import BadRequest
from pkengine.keys import Secret


class Colour(enum.Enum):
    RED = "red"


PART = Element(
    "part",
    is_reference=True,
    id=attrgetter("id"),
    fields=(Field("count", INTEGER, attrgetter("count"), is_read=True),),
)
THING = Element(
    "thing",
    "things",
    id=attrgetter("id"),
    href=lambda thing: f"/things/{thing.id}",
    actions=("turn",),
    collections=("parts",),
    fields=(
        Field("name", TEXT, attrgetter("name"), is_read=True),
        Field("is_new", BOOLEAN, attrgetter("is_new"), is_read=True),
        Field("colour", Enumerated(Colour), attrgetter("colour"), is_read=True),
        Field("made", MOMENT, attrgetter("made")),
        Field("tags", ListOf("tag", LINE), attrgetter("tags"), is_read=True),
        Field("part", PART, attrgetter("part"), is_read=True),
        Field("password", SECRET, is_read=True),
        *ignored("legacy"),
    ),
)

MADE = datetime.datetime(2026, 1, 2, 3, 4, 5, 678900, datetime.timezone.utc)


def thing(**values: Any) -> SimpleNamespace:
    part = SimpleNamespace(id=7, count=2)
    known: dict[str, Any] = {
        "id": 1,
        "name": "n",
        "is_new": True,
        "colour": Colour.RED,
        "made": MADE,
        "tags": ("a", "b"),
        "part": part,
    }
    return SimpleNamespace(**{**known, **values})


class WriterTests(SynchronousTestCase):
    def test_xml_has_every_field_in_its_order(self) -> None:
        self.assertEqual(
            xml_form.write(THING, thing(), "/api").decode(),
            '<thing href="/api/things/1" id="1">'
            '<actions><link href="/api/things/1/turn" rel="turn"/></actions>'
            '<link href="/api/things/1/parts" rel="parts"/>'
            "<name>n</name><is_new>true</is_new><colour>red</colour>"
            "<made>2026-01-02T03:04:05.678Z</made><tags><tag>a</tag><tag>b</tag></tags>"
            '<part id="7"><count>2</count></part></thing>',
        )

    def test_json_has_the_same_in_ovirts_form(self) -> None:
        self.assertEqual(
            json.loads(json_form.write(THING, thing(), "/api")),
            {
                "name": "n",
                "is_new": "true",
                "colour": "red",
                "made": 1767323045678,
                "tags": {"tag": ["a", "b"]},
                "part": {"id": "7", "count": "2"},
                "id": "1",
                "href": "/api/things/1",
                "actions": {"link": [{"href": "/api/things/1/turn", "rel": "turn"}]},
                "link": [{"href": "/api/things/1/parts", "rel": "parts"}],
            },
        )

    def test_what_is_none_is_left_out_and_what_is_empty_is_not(self) -> None:
        empty = thing(name="", colour=None, made=None, tags=(), part=None, is_new=False)
        self.assertTrue(
            xml_form.write(THING, empty, "")
            .decode()
            .endswith("<name></name><is_new>false</is_new><tags></tags></thing>")
        )
        self.assertEqual(
            set(json.loads(json_form.write(THING, empty, ""))),
            {"name", "is_new", "tags", "id", "href", "actions", "link"},
        )

    def test_collections_of_any_length_are_whole(self) -> None:
        for count in (0, 1, 99, 100, 101, 200, 1000):
            things = [thing(id=number) for number in range(count)]
            xml = b"".join(written(xml_form, things))
            ids = [item.get("id") for item in ElementTree.fromstring(xml)]
            self.assertEqual(ids, [str(number) for number in range(count)])
            found = json.loads(b"".join(written(json_form, things)))
            self.assertEqual([item["id"] for item in found["thing"]], ids)

    def test_long_collections_come_in_pieces(self) -> None:
        things = [thing(id=number) for number in range(1000)]
        for form in (xml_form, json_form):
            self.assertGreater(len(written(form, things)), 3)

    @given(st.text())
    def test_any_text_makes_well_formed_xml_and_json(self, text: str) -> None:
        found = ElementTree.fromstring(xml_form.write(THING, thing(name=text), ""))
        allowed = "".join(
            c
            if c in "\t\n\r" or (c >= " " and c not in "\ufffe\uffff")
            else "\N{REPLACEMENT CHARACTER}"
            for c in text
        )
        self.assertEqual(found.findtext("name"), allowed)
        self.assertEqual(json.loads(json_form.write(THING, thing(name=text), ""))["name"], text)


def written(form: Any, things: list[Any]) -> list[bytes]:
    """Write a collection that comes in pages, into pieces."""

    async def pages() -> AsyncIterator[list[Any]]:
        for start in range(0, len(things), 100):
            yield things[start : start + 100]

    async def write() -> list[bytes]:
        return [piece async for piece in form.write_many(THING, pages(), "")]

    found: list[list[bytes]] = []
    ensureDeferred(write()).addCallback(found.append)
    return found[0]


class ReaderTests(SynchronousTestCase):
    def both(self, xml: str, value: Any) -> Any:
        from_xml = xml_form.read(THING, xml.encode())
        from_json = json_form.read(THING, json.dumps(value).encode())
        self.assertEqual(from_xml, from_json)
        return from_xml

    def test_values_are_of_their_type(self) -> None:
        document = self.both(
            "<thing><name> n </name><is_new>TRUE</is_new><colour>RED</colour>"
            '<tags><tag>a</tag></tags><part id="7"><count>+2</count></part></thing>',
            {
                "name": " n ",
                "is_new": True,
                "colour": "red",
                "tags": {"tag": ["a"]},
                "part": {"id": "7", "count": 2},
            },
        )
        self.assertEqual(
            document,
            {
                "name": " n ",
                "is_new": True,
                "colour": Colour.RED,
                "tags": ["a"],
                "part": {"id": "7", "count": 2},
            },
        )

    def test_secret_is_a_secret_from_the_first_moment(self) -> None:
        document = self.both("<thing><password>p</password></thing>", {"password": "p"})
        self.assertEqual(document["password"], Secret("p"))
        self.assertNotIn("'p'", repr(document).replace("'password'", ""))

    def test_what_is_only_written_or_only_known_to_ovirt_is_ignored(self) -> None:
        document = self.both(
            '<thing id="9" href="/x"><made>never</made><legacy><deep>1</deep></legacy>'
            '<link rel="a" href="b"/><actions/></thing>',
            {"id": "9", "href": "/x", "made": "never", "legacy": {"deep": [1]}, "link": []},
        )
        self.assertEqual(document, {})

    def test_misspelled_and_misplaced_names_are_refused_with_their_path(self) -> None:
        for xml, value, path in (
            ("<thing><nmae/></thing>", {"nmae": ""}, "'nmae' in 'thing'"),
            ("<thing><part><n/></part></thing>", {"part": {"n": 1}}, "'n' in 'thing/part'"),
        ):
            for form, body in ((xml_form, xml), (json_form, json.dumps(value))):
                with self.assertRaises(BadRequest) as caught:
                    form.read(THING, body.encode())
                self.assertIn(path, str(caught.exception))

    def test_values_of_another_type_are_refused_with_their_path(self) -> None:
        for xml, value in (
            ("<thing><part><count>x</count></part></thing>", {"part": {"count": "x"}}),
            ("<thing><part><count></count></part></thing>", {"part": {"count": ""}}),
            (
                "<thing><part><count>9999999999999999999</count></part></thing>",
                {"part": {"count": 9999999999999999999}},
            ),
        ):
            for form, body in ((xml_form, xml), (json_form, json.dumps(value))):
                with self.assertRaises(InvalidValue) as caught:
                    form.read(THING, body.encode())
                self.assertIn("'thing/part/count'", str(caught.exception))

    @given(st.binary(max_size=200))
    def test_any_octets_are_read_or_refused(self, body: bytes) -> None:
        for form in (xml_form, json_form):
            try:
                form.read(THING, body)
            except BadRequest as error:
                self.assertTrue(str(error))
