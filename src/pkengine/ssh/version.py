"""The exchange of version strings, with which an SSH connection begins (RFC 4253 §4.2)."""

from __future__ import annotations

from pkengine.ssh.wire import MalformedMessage, readable

#: What this side says of itself.
OUR_VERSION = b"SSH-2.0-pkengine"
#: How many octets a server may say before its version string.
MAX_GREETING = 64 * 1024
_MAX_VERSION = 255


class VersionReader:
    """Finds the server's version string behind whatever lines it sends first."""

    def __init__(self) -> None:
        self._greeting_length = 0

    def read(self, received: bytearray) -> bytes | None:
        """Take lines off the front of what was received.

        Returns:
            The version string without its line end, or None where it is still to come.

        Raises:
            MalformedMessage: it is none of SSH 2, or does not come.
        """
        while (end := received.find(b"\n")) >= 0:
            line = bytes(received[:end]).rstrip(b"\r")
            del received[: end + 1]
            if line.startswith(b"SSH-"):
                if len(line) > _MAX_VERSION:
                    raise MalformedMessage("the version string is too long")
                if not line.startswith((b"SSH-2.0-", b"SSH-1.99-")):
                    raise MalformedMessage(f"the host speaks '{readable(line)}', not SSH 2")
                return line
            self._greeting_length += end + 1
        if self._greeting_length + len(received) > MAX_GREETING:
            raise MalformedMessage("what the host sends is not SSH")
        return None
