"""A secret must not show, whatever a programmer does with it by accident."""

from __future__ import annotations

import copy
import io
import json
import pickle
from dataclasses import dataclass

from twisted.logger import Logger, textFileLogObserver
from twisted.trial import unittest

from pkengine.errors import InvalidKeyText
from pkengine.keys import Secret

PASSWORD = "correct horse battery staple"


@dataclass
class _Login:
    user: str
    password: Secret


class SecretTests(unittest.TestCase):
    def test_text_and_octets_are_the_same_secret(self) -> None:
        self.assertEqual(Secret("pä"), Secret("pä".encode()))
        self.assertEqual("pä", Secret("pä".encode()).reveal_text())
        self.assertEqual("pä".encode(), Secret("pä").reveal())

    def test_no_way_of_printing_shows_it(self) -> None:
        secret = Secret(PASSWORD)
        for shown in (
            repr(secret),
            str(secret),
            f"{secret}",
            f"{secret!r:>40}",
            "%s" % secret,  # noqa: UP031 - one of the ways
            repr(_Login("root", secret)),
            repr([secret]),
        ):
            self.assertNotIn("horse", shown)
            self.assertIn("hidden", shown)

    def test_a_log_line_that_names_it_does_not_show_it(self) -> None:
        written = io.StringIO()
        log = Logger(observer=textFileLogObserver(written))
        log.info("login with {password} and {login}", password=Secret(PASSWORD), login=[PASSWORD])
        log.info("login with {login.password}", login=_Login("root", Secret(PASSWORD)))
        first, second = written.getvalue().splitlines()
        self.assertIn("with Secret(<hidden>) and", first)
        self.assertIn("with Secret(<hidden>)", second)
        self.assertNotIn(PASSWORD, second)

    def test_it_cannot_leave_the_process_by_accident(self) -> None:
        secret = Secret(PASSWORD)
        for way in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps, vars, hash):
            with self.assertRaises(TypeError) as caught:
                way(secret)
            self.assertNotIn("horse", str(caught.exception))

    def test_octets_that_are_no_text_do_not_show_in_the_error(self) -> None:
        with self.assertRaises(InvalidKeyText) as caught:
            Secret(b"horse\xff").reveal_text()
        error: BaseException | None = caught.exception
        while error is not None:
            self.assertNotIn("horse", repr(error.args))
            error = error.__cause__ or error.__context__

    def test_equality_is_with_secrets_only(self) -> None:
        self.assertNotEqual(Secret("a"), Secret("b"))
        self.assertNotEqual(Secret("a"), "a")
        self.assertNotEqual(Secret("a"), b"a")

    def test_an_empty_secret_is_false(self) -> None:
        self.assertFalse(Secret(""))
        self.assertTrue(Secret("0"))

    def test_it_keeps_a_copy_of_octets_that_change_later(self) -> None:
        octets = bytearray(b"key")
        secret = Secret(octets)
        octets[:] = b"xxx"
        self.assertEqual(b"key", secret.reveal())
