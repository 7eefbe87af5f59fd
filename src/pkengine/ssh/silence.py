"""Notice that a host has gone silent: a pulled cable, a power cut, a firewall that forgot us.

TCP alone waits for hours.  The kernel can be asked to ask, and to give up: this works for
every step on a connection, whether it sends, receives or waits.
"""

from __future__ import annotations

import socket

#: A host that acknowledges nothing for so long, in seconds, is gone.
SILENCE_S = 20
_PROBES = 3


def notice_silence(connection: socket.socket, silence_s: int = SILENCE_S) -> None:
    """Let the kernel end a TCP connection whose other end is silent for that long.

    Data on the way must be acknowledged in that time (TCP_USER_TIMEOUT, RFC 5482), and where
    there is none, keep-alive probes ask.
    """
    between_probes_s = max(1, silence_s // (_PROBES + 1))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, between_probes_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, between_probes_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, silence_s * 1000)
