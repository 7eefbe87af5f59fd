"""What the kernel is asked for, so that a silent host is noticed."""

from __future__ import annotations

import socket

from twisted.trial import unittest

from pkengine.ssh.silence import notice_silence


class SilenceTests(unittest.TestCase):
    def test_sending_and_waiting_both_end_within_the_time(self) -> None:
        with socket.socket() as connection:
            notice_silence(connection, 20)
            self.assertTrue(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            idle, interval, count, user_timeout_ms = (
                connection.getsockopt(socket.IPPROTO_TCP, option)
                for option in (
                    socket.TCP_KEEPIDLE,
                    socket.TCP_KEEPINTVL,
                    socket.TCP_KEEPCNT,
                    socket.TCP_USER_TIMEOUT,
                )
            )
        self.assertEqual(20, idle + count * interval)
        self.assertEqual(20_000, user_timeout_ms)
