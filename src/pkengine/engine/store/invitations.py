"""Queries about invitations of hosts that join by a code."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from pkengine.engine.model import Invitation, InvitationState
from pkengine.engine.store.schema import invitations


def insert_invitation(connection: Connection, invitation: Invitation) -> None:
    """Add an invitation.

    Raises:
        sqlalchemy.exc.IntegrityError: another one has its number.
    """
    connection.execute(
        insert(invitations).values(
            id=invitation.id,
            number=invitation.number,
            state=invitation.state.value,
            created=invitation.created,
            expires=invitation.expires,
            sealed=invitation.sealed,
            host_name=invitation.host_name,
            is_approved=invitation.is_approved,
            guesses=invitation.guesses,
            user_name=invitation.user,
            ended=invitation.ended,
            host_id=invitation.host_id,
        )
    )


def all_invitations(connection: Connection) -> list[Invitation]:
    """Give every invitation, the oldest first."""
    rows = connection.execute(select(invitations).order_by(invitations.c.created))
    return [_invitation(row) for row in rows]


def count_guesses(connection: Connection, invitation_id: uuid.UUID, guesses: int) -> None:
    """Write down how many guesses may have been made."""
    connection.execute(
        update(invitations).where(invitations.c.id == invitation_id).values(guesses=guesses)
    )


def end_invitation(
    connection: Connection,
    invitation_id: uuid.UUID,
    state: InvitationState,
    ended: datetime.datetime,
    *,
    host_id: uuid.UUID | None = None,
) -> Invitation | None:
    """End an invitation that is open; give it as it is then, or None where it was not open."""
    changed = connection.execute(
        update(invitations)
        .where(
            invitations.c.id == invitation_id,
            invitations.c.state == InvitationState.OPEN.value,
        )
        .values(state=state.value, ended=ended, host_id=host_id)
    )
    return _by_id(connection, invitation_id) if changed.rowcount else None


def reopen_invitation(connection: Connection, invitation_id: uuid.UUID) -> Invitation | None:
    """Open an invitation that was used in vain, and give it; None where it is gone."""
    connection.execute(
        update(invitations)
        .where(
            invitations.c.id == invitation_id,
            invitations.c.state == InvitationState.USED.value,
        )
        .values(state=InvitationState.OPEN.value, ended=None, host_id=None)
    )
    return _by_id(connection, invitation_id)


def delete_invitation(connection: Connection, invitation_id: uuid.UUID) -> None:
    """Forget an invitation."""
    connection.execute(delete(invitations).where(invitations.c.id == invitation_id))


def has_invitations(connection: Connection) -> bool:
    """Tell whether there is an invitation, each of which has a sealed secret."""
    return connection.execute(select(invitations.c.id).limit(1)).first() is not None


def _by_id(connection: Connection, invitation_id: uuid.UUID) -> Invitation | None:
    row = connection.execute(
        select(invitations).where(invitations.c.id == invitation_id)
    ).one_or_none()
    return _invitation(row) if row else None


def _invitation(row: Row[Any]) -> Invitation:
    return Invitation(
        id=row.id,
        number=row.number,
        state=InvitationState(row.state),
        created=row.created,
        expires=row.expires,
        sealed=row.sealed,
        host_name=row.host_name,
        is_approved=row.is_approved,
        guesses=row.guesses,
        user=row.user_name,
        ended=row.ended,
        host_id=row.host_id,
    )
