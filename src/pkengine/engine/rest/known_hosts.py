"""SSH keys that are known beside those of the hosts: lines of OpenSSH's ``known_hosts``."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from operator import attrgetter

from pkengine.engine.hosts.known_keys import KnownKeys, TakenKey
from pkengine.engine.model import HostKeySource, KeyStanding
from pkengine.engine.rest.action_elements import ACTION, ActionResult
from pkengine.engine.rest.call import Answer, Call, Route
from pkengine.engine.rest.elements import text_of
from pkengine.engine.rest.schema import (
    BOOLEAN,
    LINE,
    MOMENT,
    TEXT,
    Element,
    Enumerated,
    Field,
    IncompleteParameters,
    ListOf,
    Text,
)
from pkengine.engine.users import Role
from pkengine.errors import BadRequest
from pkengine.ssh import KnownHosts
from pkengine.ssh.known_hosts import KnownHost

#: As much as a body may have.
_FILE = Text(longest=1024 * 1024)
_NAMES = Text(longest=4000, is_line=True)

SHOWN_KEY = Element(
    "ssh_key",
    "ssh_keys",
    fields=(
        Field("type", LINE, attrgetter("key.key_type")),
        Field("fingerprint", LINE, lambda shown: str(shown.key.fingerprint())),
        Field("md5_fingerprint", LINE, lambda shown: str(shown.key.fingerprint("MD5"))),
        Field("public_key", TEXT, lambda shown: str(shown.key)),
        Field("standing", Enumerated(KeyStanding), attrgetter("standing")),
        Field("key_source", Enumerated(HostKeySource), attrgetter("source")),
    ),
)

KNOWN_HOST = Element(
    "known_host",
    "known_hosts",
    id=attrgetter("id"),
    href=lambda known: f"/knownhosts/{known.id}",
    fields=(
        Field("marker", LINE, lambda known: known.line.marker or None, is_read=True),
        Field("names", _NAMES, lambda known: ",".join(known.line.names), is_read=True),
        Field("type", LINE, attrgetter("line.key.key_type")),
        Field("fingerprint", LINE, lambda known: str(known.line.key.fingerprint())),
        Field("public_key", TEXT, lambda known: str(known.line.key), is_read=True),
        Field("comment", TEXT, text_of("line.comment"), is_read=True),
        Field("key_source", Enumerated(HostKeySource), attrgetter("source")),
        Field("user_name", LINE, text_of("user")),
        Field("added", MOMENT, attrgetter("added")),
    ),
)


def _of_known(field: Field) -> Field:
    """Declare a field of a known key for one that was taken from a file."""
    get = field.get
    assert get is not None
    return Field(field.name, field.type, lambda taken: get(taken.known))


_IMPORTED = Element(
    "imported_host",
    "imported_hosts",
    id=attrgetter("known.id"),
    href=lambda taken: f"/knownhosts/{taken.known.id}",
    fields=(
        *map(_of_known, KNOWN_HOST.fields),
        Field("is_new", BOOLEAN, attrgetter("is_new")),
        Field("hosts", ListOf("name", LINE), lambda taken: taken.hosts or None),
    ),
)

#: The content of a known_hosts file.
KNOWN_HOSTS_FILE = Element(
    "known_hosts_file",
    fields=(
        Field("name", LINE, is_read=True),
        Field("content", _FILE, str, is_read=True),
    ),
)


class KnownHostResource:
    """``/knownhosts``."""

    def __init__(self, known_keys: KnownKeys) -> None:
        self._known_keys = known_keys

    def routes(self) -> Iterable[Route]:
        """Give the routes; what decides whom to trust is the administrator's."""
        decides = Role.ADMINISTRATOR
        one = "/knownhosts/<uuid:key_id>"
        yield Route(
            method="GET",
            path="/knownhosts",
            handler=self.list,
            element=KNOWN_HOST,
            is_many=True,
        )
        yield Route(
            method="POST",
            path="/knownhosts",
            handler=self.add,
            role=decides,
            element=KNOWN_HOST,
            reads=KNOWN_HOST,
            status=201,
        )
        yield Route(method="GET", path=one, handler=self.get, element=KNOWN_HOST)
        yield Route(method="DELETE", path=one, handler=self.remove, role=decides)
        yield Route(
            method="POST",
            path="/knownhosts/import",
            handler=self.import_file,
            role=decides,
            element=_IMPORTED,
            is_many=True,
            reads=KNOWN_HOSTS_FILE,
        )
        yield Route(
            method="GET",
            path="/knownhosts/export",
            handler=self.export_file,
            element=KNOWN_HOSTS_FILE,
        )

    async def list(self, call: Call) -> Answer:
        """Give the known SSH keys, in the order in which they came."""
        known = await self._known_keys.list()
        return Answer(element=KNOWN_HOST, many=known[: call.limit(None)])

    async def get(self, call: Call, key_id: uuid.UUID) -> Answer:
        """Give one known SSH key."""
        return Answer(element=KNOWN_HOST, one=await self._known_keys.get(key_id))

    async def add(self, call: Call) -> Answer:
        """Believe a key of hosts, revoke one, or accept an authority; once is enough."""
        document = call.read(KNOWN_HOST)
        missing = [name for name in ("names", "public_key") if not document.get(name)]
        if missing:
            raise IncompleteParameters(f"KnownHost [{', '.join(missing)}] required for add.")
        parts = ("marker", "names", "public_key", "comment")
        text = " ".join(document[part].strip() for part in parts if document.get(part))
        try:
            line = KnownHost.parse(text)
        except ValueError as error:
            raise BadRequest(f"This is no known SSH key: {error}.") from error
        lines = [line] if line is not None else []
        (taken,) = await self._known_keys.add(lines, call.origin)
        return Answer(
            element=KNOWN_HOST,
            one=taken.known,
            status=201,
            location=f"/knownhosts/{taken.known.id}",
        )

    async def remove(self, call: Call, key_id: uuid.UUID) -> Answer:
        """Forget a known SSH key."""
        await self._known_keys.remove(key_id, call.origin)
        return Answer(element=ACTION, one=ActionResult())

    async def import_file(self, call: Call) -> Answer:
        """Believe the lines of a known_hosts file: all of them, or none where one is bad."""
        document = call.read(KNOWN_HOSTS_FILE)
        lines = KnownHosts.parse(
            document.get("content", ""), file=document.get("name") or "known_hosts"
        ).lines
        taken: list[TakenKey] = await self._known_keys.add(lines, call.origin)
        return Answer(element=_IMPORTED, many=taken)

    async def export_file(self, call: Call) -> Answer:
        """Give the keys of all trusted hosts, and the known ones, as a known_hosts file."""
        return Answer(element=KNOWN_HOSTS_FILE, one=await self._known_keys.export())
