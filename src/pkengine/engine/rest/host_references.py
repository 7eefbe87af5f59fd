"""What requests about hosts say in the same way: how to log in, and which cluster."""

from __future__ import annotations

import uuid

from pkengine.engine.clusters import Clusters
from pkengine.engine.model import (
    DEFAULT_SSH_PORT,
    DEFAULT_SSH_USER,
    JumpHost,
    JumpLogin,
    NewHost,
    SshLogin,
    WayChoice,
)
from pkengine.engine.rest.schema import GUID, Document, IncompleteParameters, decode
from pkengine.keys import SshFingerprint, SshPublicKey
from pkengine.listening import AGENT_PORT


async def read_cluster_id(clusters: Clusters, reference: Document | None) -> uuid.UUID | None:
    """Give the id of the cluster that is named, or None where none is.

    Raises:
        NotFound: there is no such cluster.
        InvalidValue: the id is none.
    """
    if not reference:
        return None
    if "id" in reference:
        cluster_id: uuid.UUID = decode(GUID, reference["id"], "cluster/id")
        return (await clusters.get(cluster_id)).id
    if reference.get("name"):
        return (await clusters.by_name(reference["name"])).id
    return None


def read_new_host(
    document: Document,
    cluster_id: uuid.UUID | None,
    *,
    activate: bool = True,
    reboot: bool = False,
) -> NewHost:
    """Read a host that is to be added; what is mandatory and missing is empty.

    Raises:
        InvalidKeyText, IncompleteParameters: as for `read_login`.
    """
    return NewHost(
        name=document.get("name") or "",
        address=document.get("address") or "",
        port=document.get("port", AGENT_PORT),
        comment=document.get("comment", ""),
        description=document.get("description", ""),
        cluster_id=cluster_id,
        ssh=read_login(document),
        way=read_way(document),
        require_direct=document.get("require_direct", False),
        activate=activate,
        reboot=reboot,
    )


def read_way(document: Document) -> WayChoice:
    """Read ``connection`` and ``mechanism`` of a host or an action."""
    return WayChoice(
        connection=document.get("connection"), mechanism=document.get("mechanism") or None
    )


def read_login(document: Document) -> SshLogin:
    """Read ``ssh`` and ``root_password`` of a host or an action.

    Where both passwords are set, that in ``ssh`` holds.

    Raises:
        InvalidKeyText: a fingerprint or a public key is not in its text form.
        IncompleteParameters: a jump host has no address.
    """
    ssh: Document = document.get("ssh") or {}
    user: Document = ssh.get("user") or {}
    fingerprint, public_key = _key(ssh)
    jumps = ssh.get("jump_hosts")
    return SshLogin(
        port=ssh.get("port"),
        user=user.get("user_name") or None,
        authentication_method=ssh.get("authentication_method"),
        password=user.get("password") or document.get("root_password") or None,
        fingerprint=fingerprint,
        public_key=public_key,
        key_agent=ssh.get("key_agent"),
        jumps=None if jumps is None else tuple(map(_jump, jumps)),
    )


def _jump(document: Document) -> JumpLogin:
    if not document.get("address"):
        raise IncompleteParameters("JumpHost [address] required.")
    user: Document = document.get("user") or {}
    fingerprint, public_key = _key(document)
    return JumpLogin(
        host=JumpHost(
            document["address"],
            document.get("port", DEFAULT_SSH_PORT),
            user.get("user_name") or DEFAULT_SSH_USER,
        ),
        password=user.get("password") or None,
        fingerprint=fingerprint,
        public_key=public_key,
    )


def _key(document: Document) -> tuple[SshFingerprint | None, SshPublicKey | None]:
    fingerprint, public_key = document.get("fingerprint"), document.get("public_key")
    return (
        SshFingerprint.parse(fingerprint) if fingerprint else None,
        SshPublicKey.parse(public_key) if public_key else None,
    )
