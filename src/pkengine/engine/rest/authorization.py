"""Who sends a request: by a token, or by name and password as users of curl do."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from pkengine.engine.accounts import Accounts
from pkengine.engine.users import User
from pkengine.errors import NotAuthorized
from pkengine.keys import Secret


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request.

    Attributes:
        user: with the role that holds for the request.
        is_automation: a personal token says so, and no person.
    """

    user: User
    is_automation: bool


class Authorizer:
    """Reads ``Authorization`` headers.

    Args:
        accounts: checks what is in them.
    """

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def caller(self, header: str, address: str) -> Caller:
        """Give whom a header stands for.

        Args:
            header: the value of the ``Authorization`` header, or nothing.
            address: where the request comes from, for throttling.

        Raises:
            NotAuthorized: it stands for nobody; nothing of it is in the error.
            TooManyAttempts: see `Accounts.recognize`.
        """
        scheme, _, credentials = header.partition(" ")
        if scheme.lower() == "bearer":
            record = await self._accounts.tokens.check(credentials.strip())
            return Caller(record.user, is_automation=record.name is not None)
        if scheme.lower() == "basic":
            name, password = _basic(credentials)
            user = await self._accounts.recognize(name, password, address)
            return Caller(user, is_automation=False)
        raise NotAuthorized(
            "The request has no access token: log in at /ovirt-engine/sso/oauth/token."
        )


def _basic(credentials: str) -> tuple[str, Secret]:
    """Read the credentials of RFC 7617, in UTF-8."""
    try:
        text = base64.b64decode(credentials.strip().encode("ascii"), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeError):
        text = ""
    name, separator, password = text.partition(":")
    if not separator:
        raise NotAuthorized("The credentials of the request cannot be understood.")
    return name, Secret(password)
