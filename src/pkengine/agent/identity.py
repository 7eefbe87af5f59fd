"""Which machine this is, said the same way at each start."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from pathlib import Path

from pkengine.agent.sysfs import read_text
from pkengine.errors import KeyFileError
from pkengine.keys.files import create_atomically

#: Values that firmware vendors left in place of a UUID, on many machines alike.
_PLACEHOLDERS = frozenset(
    {
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "ffffff00-ffff-ffff-ffff-ffffffffffff",
    }
)

#: Names this use of the machine ID, as ``systemd-id128 --app-specific`` would take it.
_APPLICATION = uuid.UUID("6a4e5c1e-4f0b-4b3c-9d57-0d8f5a7c2b91")


def host_uuid(state_file: Path, *, root: Path = Path("/")) -> str:
    """Give the UUID of this host.

    In this order: what `state_file` says, so that an administrator may tell cloned
    machines apart; the firmware's UUID; one derived from the machine ID, which itself is
    not to be shown to others (machine-id(5)); a random one, kept in `state_file`.

    Args:
        state_file: where a UUID of the agent's own is kept.
        root: where the file system of the machine begins.

    Raises:
        KeyFileError: `state_file` holds something else, or cannot be read or written.
    """
    return (
        _kept_uuid(state_file)
        or _firmware_uuid(read_text(root / "sys/class/dmi/id/product_uuid"))
        or _machine_id_uuid(read_text(root / "etc/machine-id"))
        or _new_uuid(state_file)
    )


def _kept_uuid(path: Path) -> str:
    try:
        text = path.read_text("utf-8", "replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise KeyFileError(f"Cannot read {path}: {error.strerror}.") from error
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise KeyFileError(
            f"{path} holds {text[:60]!r}: expected a UUID such as {uuid.UUID(int=0)}. "
            "Correct it, or remove the file."
        ) from error


def _firmware_uuid(text: str) -> str:
    try:
        found = str(uuid.UUID(text))
    except ValueError:
        return ""
    if found in _PLACEHOLDERS or len(set(found) - {"-"}) == 1:
        return ""
    return found


def _machine_id_uuid(text: str) -> str:
    """Derive a UUID from the machine ID, as sd_id128_get_machine_app_specific(3) does."""
    try:
        machine_id = uuid.UUID(hex=text)
    except ValueError:  # such as "uninitialized", before the first boot is done
        return ""
    digest = hmac.digest(machine_id.bytes, _APPLICATION.bytes, hashlib.sha256)
    return str(uuid.UUID(bytes=digest[:16], version=4))


def _new_uuid(path: Path) -> str:
    create_atomically(path, f"{uuid.uuid4()}\n".encode("ascii"), mode=0o644)
    return _kept_uuid(path)
