"""What ``pkengine host show`` tells of a host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pkengine.cli.terminal import local_time

if TYPE_CHECKING:
    from pkengine.cli.rest_client import Entity


#: The API gives Boolean values as text, in JSON too.
_TRUE = ("true", True)


def host_facts(found: Entity) -> list[tuple[str, str]]:
    """Give labels and values, without those that are not known."""
    ssh = found.get("ssh") or {}
    system = found.get("os") or {}
    version = (system.get("version") or {}).get("full_version", "")
    keys = ((found.get("trust") or {}).get("keys") or {}).get("key") or []
    facts = [
        ("Name", found.get("name")),
        ("Id", found.get("id")),
        ("Address", found.get("address")),
        ("Status", found.get("status")),
        ("Detail", found.get("status_detail")),
        ("Agent port", found.get("port")),
        ("Agent version", found.get("agent_version")),
        ("Connection", found.get("connection")),
        ("Mechanism", found.get("mechanism")),
        ("TLS path", (found.get("trust") or {}).get("tls_path")),
        ("Direct TLS path", "required" if found.get("require_direct") in _TRUE else ""),
        *(("Agent key", _key(key)) for key in keys),
        ("SSH", f"{(ssh.get('user') or {}).get('user_name', '')} port {ssh.get('port', '')}"),
        ("SSH fingerprint", ssh.get("fingerprint")),
        ("SSH key trusted by", ssh.get("key_source")),
        ("SSH host key", ssh.get("public_key")),
        ("Proved SSH keys", _proved(ssh)),
        ("Jump hosts", _way(ssh)),
        ("Operating system", f"{system.get('type', '')} {version}".strip()),
        ("CPU", (found.get("cpu") or {}).get("name")),
        ("Memory", _mebibytes(found.get("memory"))),
        ("Comment", found.get("comment")),
    ]
    return [(label, str(value)) for label, value in facts if value]


def _key(key: Entity) -> str:
    added = local_time(key["added"])
    return f"{key['value']} for {key['mechanism']}, {key['source']} {added}"


def _proved(ssh: Entity) -> str:
    keys = (ssh.get("proved_keys") or {}).get("ssh_key") or []
    return ", ".join(f"{key.get('type')} {key.get('fingerprint')}" for key in keys)


def _way(ssh: Entity) -> str:
    jumps = (ssh.get("jump_hosts") or {}).get("jump_host") or []
    return ", ".join(
        f"{jump['user']['user_name']}@{jump['address']} port {jump['port']}" for jump in jumps
    )


def _mebibytes(octets: object) -> str:
    mebibytes = int(str(octets or 0)) // 1048576
    return f"{mebibytes} MiB" if mebibytes else ""
