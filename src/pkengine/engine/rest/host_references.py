"""What requests about hosts say in the same way: how to log in, and which cluster."""

from __future__ import annotations

import uuid

from pkengine.engine.clusters import Clusters
from pkengine.engine.model import SshLogin
from pkengine.engine.rest.schema import GUID, Document, decode
from pkengine.keys import SshFingerprint, SshPublicKey


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


def read_login(document: Document) -> SshLogin:
    """Read ``ssh`` and ``root_password`` of a host or an action.

    Where both passwords are set, that in ``ssh`` holds.

    Raises:
        InvalidKeyText: fingerprint or public key are not in their text form.
    """
    ssh: Document = document.get("ssh") or {}
    user: Document = ssh.get("user") or {}
    fingerprint, public_key = ssh.get("fingerprint"), ssh.get("public_key")
    return SshLogin(
        port=ssh.get("port"),
        user=user.get("user_name") or None,
        authentication_method=ssh.get("authentication_method"),
        password=user.get("password") or document.get("root_password") or None,
        fingerprint=SshFingerprint.parse(fingerprint) if fingerprint else None,
        public_key=SshPublicKey.parse(public_key) if public_key else None,
    )
