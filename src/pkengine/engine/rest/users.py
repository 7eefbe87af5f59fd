"""Users, their roles and personal tokens, and the audit log of who trusted whom."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from pkengine.engine.accounts import Accounts
from pkengine.engine.events import EVENT_FIELDS, TRUST_DECISIONS, Events
from pkengine.engine.rest.action_elements import ACTION, ActionResult
from pkengine.engine.rest.call import Answer, Call, Route
from pkengine.engine.rest.schema import IncompleteParameters
from pkengine.engine.rest.search import parse
from pkengine.engine.rest.user_elements import (
    AUDIT_RECORD,
    ROLE,
    TOKEN,
    USER,
    ShownToken,
    ShownUser,
    role_id,
)
from pkengine.engine.user_administration import DEFAULT_TOKEN_DAYS, UserAdministration
from pkengine.engine.users import Role, UserRecord
from pkengine.errors import BadRequest, Forbidden, NotFound

_USER_FIELDS = {
    "name": lambda shown: shown.user.name,
    "usrname": lambda shown: shown.user.name,
    "user_name": lambda shown: shown.user.name,
    "role": lambda shown: shown.user.role.value,
}


class UserResource:
    """``/users``, ``/roles`` and ``/audit``.

    Users are shown to administrators, and each to itself.
    """

    def __init__(
        self, administration: UserAdministration, accounts: Accounts, events: Events
    ) -> None:
        self._administration = administration
        self._accounts = accounts
        self._events = events

    def routes(self) -> Iterable[Route]:
        """Give the routes."""
        decides = Role.ADMINISTRATOR
        user = "/users/<uuid:user_id>"
        token = f"{user}/tokens/<uuid:token_id>"
        yield Route(
            method="GET",
            path="/users",
            handler=self.list,
            element=USER,
            is_many=True,
            searches=_USER_FIELDS,
        )
        yield Route(
            method="POST",
            path="/users",
            handler=self.add,
            role=decides,
            element=USER,
            reads=USER,
            status=201,
        )
        yield Route(method="GET", path=user, handler=self.get, element=USER)
        yield Route(method="PUT", path=user, handler=self.update, element=USER, reads=USER)
        yield Route(method="DELETE", path=user, handler=self.remove, role=decides)
        yield Route(
            method="GET",
            path=f"{user}/tokens",
            handler=self.tokens,
            element=TOKEN,
            is_many=True,
        )
        yield Route(
            method="POST",
            path=f"{user}/tokens",
            handler=self.issue_token,
            element=TOKEN,
            reads=TOKEN,
            status=201,
        )
        yield Route(method="GET", path=token, handler=self.token, element=TOKEN)
        yield Route(method="DELETE", path=token, handler=self.revoke_token)
        yield Route(method="GET", path="/roles", handler=self.roles, element=ROLE, is_many=True)
        yield Route(method="GET", path="/roles/<uuid:wanted>", handler=self.role, element=ROLE)
        yield Route(
            method="GET",
            path="/audit",
            handler=self.audit,
            role=decides,
            element=AUDIT_RECORD,
            is_many=True,
            searches=EVENT_FIELDS,
        )
        yield Route(
            method="GET",
            path="/audit/<int:event_id>",
            handler=self.decision,
            role=decides,
            element=AUDIT_RECORD,
        )

    async def list(self, call: Call) -> Answer:
        """Give the users that a search finds; to others than administrators, themselves."""
        search = parse(
            call.query.get("search", ""),
            _USER_FIELDS,
            case_sensitive=call.boolean("case_sensitive", False),
        )
        shown = [_shown(record) for record in await self.visible(call)]
        return Answer(element=USER, many=search.apply(shown, call.limit(None)))

    async def visible(self, call: Call) -> Iterable[UserRecord]:
        """Give the users whom the caller may see."""
        if call.user.role is Role.ADMINISTRATOR:
            return await self._administration.list()
        return [await self._administration.get(call.user.id)]

    async def get(self, call: Call, user_id: uuid.UUID) -> Answer:
        """Give one user."""
        _check_is_visible(call, user_id)
        return Answer(element=USER, one=_shown(await self._administration.get(user_id)))

    async def add(self, call: Call) -> Answer:
        """Add a user, as a viewer where no role is given."""
        _refuse_automation(call)
        document = call.read(USER)
        missing = [name for name in ("user_name", "password") if not document.get(name)]
        if missing:
            raise IncompleteParameters(f"User [{', '.join(missing)}] required for add.")
        record = await self._administration.add(
            document["user_name"],
            document["password"],
            document.get("role", Role.VIEWER),
            call.origin,
        )
        location = f"/users/{record.user.id}"
        return Answer(element=USER, one=_shown(record), status=201, location=location)

    async def update(self, call: Call, user_id: uuid.UUID) -> Answer:
        """Change role, password and whether the user may log in.

        Everybody may change the own password by giving the ``current_password``, too.
        """
        _check_is_visible(call, user_id)
        _refuse_automation(call)
        document = call.read(USER)
        password, role = document.get("password"), document.get("role")
        disabled = document.get("disabled")
        old = await self._administration.get(user_id)
        if document.get("user_name") not in (None, old.user.name):
            raise BadRequest("The name of a user cannot be changed: add another user.")
        if call.user.role is not Role.ADMINISTRATOR and (
            role not in (None, old.user.role) or disabled not in (None, old.disabled)
        ):
            raise Forbidden("Only an administrator changes what a user may do.")
        if user_id == call.user.id and password is not None:
            current = document.get("current_password")
            if current is None:
                raise IncompleteParameters("User [current_password] required for update.")
            # Throttled like a login, for this is a place to guess.
            await self._accounts.check_password(old.user.name, current, call.origin.address)
        record = await self._administration.change(
            user_id, call.origin, password=password, role=role, disabled=disabled
        )
        return Answer(element=USER, one=_shown(record))

    async def remove(self, call: Call, user_id: uuid.UUID) -> Answer:
        """Forget a user; its sessions and tokens end now."""
        _refuse_automation(call)
        await self._administration.remove(user_id, call.origin)
        return Answer(element=ACTION, one=ActionResult())

    async def tokens(self, call: Call, user_id: uuid.UUID) -> Answer:
        """Give the personal tokens of a user, without their texts."""
        _check_is_visible(call, user_id)
        records = await self._administration.tokens(user_id)
        return Answer(element=TOKEN, many=[ShownToken(record) for record in records])

    async def token(self, call: Call, user_id: uuid.UUID, token_id: uuid.UUID) -> Answer:
        """Give one of the tokens, without its text."""
        _check_is_visible(call, user_id)
        for record in await self._administration.tokens(user_id):
            if record.id == token_id:
                return Answer(element=TOKEN, one=ShownToken(record))
        raise NotFound(f"There is no token {token_id} of user {user_id}.")

    async def issue_token(self, call: Call, user_id: uuid.UUID) -> Answer:
        """Make a token for automation; this answer is the only place that shows its text."""
        _check_is_visible(call, user_id)
        _refuse_automation(call)
        if user_id != call.user.id:
            raise Forbidden("A token is issued to nobody but the user who asks for it.")
        document = call.read(TOKEN)
        if not document.get("name"):
            raise IncompleteParameters("Token [name] required for add.")
        issued, record = await self._administration.issue_token(
            call.user,
            document["name"],
            document.get("role", Role.VIEWER),
            document.get("days", DEFAULT_TOKEN_DAYS),
            call.origin,
        )
        return Answer(
            element=TOKEN,
            one=ShownToken(record, issued),
            status=201,
            location=f"/users/{user_id}/tokens/{record.id}",
        )

    async def revoke_token(self, call: Call, user_id: uuid.UUID, token_id: uuid.UUID) -> Answer:
        """End a personal token at once."""
        _check_is_visible(call, user_id)
        _refuse_automation(call)
        await self._administration.revoke_token(user_id, token_id, call.origin)
        return Answer(element=ACTION, one=ActionResult())

    async def roles(self, call: Call) -> Answer:
        """Give the roles."""
        return Answer(element=ROLE, many=list(Role))

    async def role(self, call: Call, wanted: uuid.UUID) -> Answer:
        """Give one role."""
        for role in Role:
            if role_id(role) == wanted:
                return Answer(element=ROLE, one=role)
        raise NotFound(f"There is no role {wanted}.")

    async def audit(self, call: Call) -> Answer:
        """Give who decided when, and from where, whom to trust; the newest first."""
        records = await self._events.find(
            call.search(EVENT_FIELDS),
            call.limit(100),
            after=call.integer("from", None),
            codes=TRUST_DECISIONS,
        )
        return Answer(element=AUDIT_RECORD, many=records)

    async def decision(self, call: Call, event_id: int) -> Answer:
        """Give one record of the audit log."""
        event = await self._events.get(event_id)
        if event.code not in TRUST_DECISIONS:
            raise NotFound(f"There is no audit record {event_id}.")
        return Answer(element=AUDIT_RECORD, one=event)


def _shown(record: UserRecord) -> ShownUser:
    return ShownUser(record.user, record.disabled)


def _check_is_visible(call: Call, user_id: uuid.UUID) -> None:
    """Hide who else there is from all but administrators."""
    if call.user.role is not Role.ADMINISTRATOR and user_id != call.user.id:
        raise NotFound(f"There is no user {user_id}.")


def _refuse_automation(call: Call) -> None:
    """A token that leaked must not become more of them, or another password."""
    if call.is_automation:
        raise Forbidden("A personal token does not change users and tokens: log in for that.")
