"""Invitations of hosts that join by a code: an extension, documented in ``docs/rest.md``."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from pkengine.auth.join_code import JoinCode
from pkengine.engine.joining.invitations import (
    DEFAULT_EXPIRY_S,
    LONGEST_EXPIRY_S,
    SHORTEST_EXPIRY_S,
    Invitations,
)
from pkengine.engine.model import Invitation, InvitationState
from pkengine.engine.rest.action_elements import ACTION, ActionResult
from pkengine.engine.rest.call import Answer, Call, Route
from pkengine.engine.rest.elements import text_of
from pkengine.engine.rest.schema import (
    BOOLEAN,
    INTEGER,
    LINE,
    MOMENT,
    Element,
    Enumerated,
    Field,
    Integer,
)
from pkengine.engine.users import Role


@dataclass(frozen=True, slots=True)
class ShownInvitation:
    """An invitation; its code is there in the one answer that makes it.

    Attributes:
        url: where the host shall find the engine, or empty where that is not known.
    """

    invitation: Invitation
    url: str
    code: JoinCode | None = None


_HOST = Element(
    "host",
    id=attrgetter("invitation.host_id"),
    href=lambda shown: f"/hosts/{shown.invitation.host_id}",
    is_reference=True,
)

INVITATION = Element(
    "invitation",
    "invitations",
    id=attrgetter("invitation.id"),
    href=lambda shown: f"/invitations/{shown.invitation.id}",
    fields=(
        Field("number", INTEGER, attrgetter("invitation.number")),
        Field("state", Enumerated(InvitationState), attrgetter("invitation.state")),
        Field("host_name", LINE, text_of("invitation.host_name"), is_read=True),
        Field("approve", BOOLEAN, attrgetter("invitation.is_approved"), is_read=True),
        Field("expires_in", Integer(SHORTEST_EXPIRY_S, LONGEST_EXPIRY_S), is_read=True),
        Field("created", MOMENT, attrgetter("invitation.created")),
        Field("expires", MOMENT, attrgetter("invitation.expires")),
        Field("ended", MOMENT, attrgetter("invitation.ended")),
        Field("user_name", LINE, text_of("invitation.user")),
        Field("host", _HOST, lambda shown: shown if shown.invitation.host_id else None),
        Field("url", LINE, text_of("url")),
        Field("code", LINE, lambda shown: shown.code.reveal() if shown.code else None),
    ),
)


class InvitationResource:
    """``/invitations``; whom to invite is a decision about trust, so it is not for all.

    Args:
        invitations: get another one.
        url: where hosts find the engine, or empty where that is not known.
    """

    def __init__(self, invitations: Invitations, url: str) -> None:
        self._invitations = invitations
        self._url = url

    def routes(self) -> Iterable[Route]:
        """Give the routes."""
        decides, one = Role.ADMINISTRATOR, "/invitations/<uuid:invitation_id>"
        yield Route(
            method="GET",
            path="/invitations",
            handler=self.list,
            role=decides,
            element=INVITATION,
            is_many=True,
        )
        yield Route(
            method="POST",
            path="/invitations",
            handler=self.add,
            role=decides,
            element=INVITATION,
            reads=INVITATION,
            status=201,
        )
        yield Route(method="GET", path=one, handler=self.get, role=decides, element=INVITATION)
        yield Route(method="DELETE", path=one, handler=self.revoke, role=decides)

    async def add(self, call: Call) -> Answer:
        """Invite a host; this answer is the only place that shows the code."""
        document = call.read(INVITATION, is_optional=True)
        invitation, code = await self._invitations.invite(
            call.origin,
            host_name=document.get("host_name", ""),
            expires_s=document.get("expires_in", DEFAULT_EXPIRY_S),
            is_approved=document.get("approve", False),
        )
        return Answer(
            element=INVITATION,
            one=ShownInvitation(invitation, self._url, code),
            status=201,
            location=f"/invitations/{invitation.id}",
        )

    async def get(self, call: Call, invitation_id: uuid.UUID) -> Answer:
        """Give one invitation, without its code."""
        shown = ShownInvitation(self._invitations.get(invitation_id), self._url)
        return Answer(element=INVITATION, one=shown)

    async def revoke(self, call: Call, invitation_id: uuid.UUID) -> Answer:
        """End an invitation; its code opens nothing from now on."""
        await self._invitations.revoke(invitation_id, call.origin)
        return Answer(element=ACTION, one=ActionResult())

    # Last, for in here its name hides the type's.

    async def list(self, call: Call) -> Answer:
        """Give the invitations that are open, or ended within the last hour, without codes."""
        found = [ShownInvitation(each, self._url) for each in self._invitations.list()]
        return Answer(element=INVITATION, many=found[: call.limit(None)])
