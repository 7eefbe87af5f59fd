"""Which hosts a bundle fits."""

from __future__ import annotations

import sys

from twisted.trial import unittest

from pkengine.engine.deployment.layout import SYSTEM_LAYOUT
from pkengine.engine.deployment.probe import (
    HostFacts,
    Installed,
    Interpreter,
    choose_interpreter,
    parse_facts,
    probe_command,
)
from pkengine.platform import Platform, needed_glibc

NEEDED = Platform("cpython-311-x86_64-linux-gnu", "2.34")


def interpreter(
    path: str = "/usr/bin/python3.11",
    *,
    version: tuple[int, int, int] = (3, 11, 2),
    suffix: str = ".cpython-311-x86_64-linux-gnu.so",
    libc: str = "glibc 2.36",
    missing: tuple[str, ...] = (),
) -> Interpreter:
    return Interpreter(path, version, suffix, libc, list(missing))


def choice(*interpreters: Interpreter, for_system: bool = True) -> Interpreter | str:
    facts = HostFacts(has_systemd=False, interpreters=interpreters)
    return choose_interpreter(facts, NEEDED, for_system=for_system)


class PlatformTests(unittest.TestCase):
    def test_the_glibc_of_a_wheel_is_the_oldest_that_one_of_its_tags_names(self) -> None:
        for tags, glibc in (
            (["cp311-abi3-manylinux_2_34_x86_64"], "2.34"),
            (["cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux2014_x86_64"], "2.17"),
            (["cp36-abi3-manylinux_2_5_x86_64.manylinux1_x86_64"], "2.5"),
            (["py3-none-any"], ""),
            (["cp312-cp312-musllinux_1_2_x86_64"], ""),
        ):
            self.assertEqual(glibc, needed_glibc(tags))

    def test_a_wheel_that_was_built_here_needs_the_glibc_of_this_machine(self) -> None:
        here = Platform.of_this_process()
        self.assertEqual(here.glibc, needed_glibc(["cp311-cp311-linux_x86_64"]))

    def test_versions_of_glibc_are_numbers(self) -> None:
        self.assertTrue(Platform(NEEDED.abi, "2.5").runs_on(Platform(NEEDED.abi, "2.34")))
        self.assertFalse(Platform(NEEDED.abi, "2.34").runs_on(Platform(NEEDED.abi, "2.5")))

    def test_it_reads_well(self) -> None:
        self.assertEqual("CPython 3.11 on x86_64 with glibc 2.34", str(NEEDED))
        self.assertEqual(
            "CPython 3.12 on aarch64 with musl", str(Platform("cpython-312-aarch64-linux-musl"))
        )
        self.assertEqual(
            "free-threaded CPython 3.13 on x86_64 with glibc 2.39",
            str(Platform("cpython-313t-x86_64-linux-gnu", "2.39")),
        )


class ChoiceTests(unittest.TestCase):
    def assert_refused(self, said: str, *interpreters: Interpreter) -> None:
        sentence = choice(*interpreters)
        assert isinstance(sentence, str), sentence
        self.assertIn("needs CPython 3.11 on x86_64 with glibc 2.34", sentence)
        self.assertIn(said, sentence)

    def test_the_first_that_fits_is_taken(self) -> None:
        newer = interpreter(
            "/usr/bin/python3.13", version=(3, 13, 1), suffix=".cpython-313-x86_64-linux-gnu.so"
        )
        fits, also = interpreter(), interpreter("/usr/local/bin/python3.11")
        self.assertEqual(fits, choice(newer, fits, also))

    def test_a_host_without_python_is_told_so(self) -> None:
        self.assert_refused("but there is no Python. Install")

    def test_what_was_found_in_place_of_it_is_named(self) -> None:
        self.assert_refused(
            "CPython 3.9 on x86_64 with glibc 2.31 (/usr/bin/python3.9) is too old",
            interpreter(
                "/usr/bin/python3.9",
                version=(3, 9, 2),
                suffix=".cpython-39-x86_64-linux-gnu.so",
                libc="glibc 2.31",
            ),
        )
        self.assert_refused(
            "there is CPython 3.11 on aarch64 with glibc 2.36",
            interpreter(suffix=".cpython-311-aarch64-linux-gnu.so"),
        )
        self.assert_refused("with glibc 2.31", interpreter(libc="glibc 2.31"))
        self.assert_refused(
            "with musl", interpreter(suffix=".cpython-311-x86_64-linux-musl.so", libc="")
        )

    def test_a_stripped_down_python_is_named_with_what_it_lacks(self) -> None:
        self.assert_refused("lacks ssl, zlib of its", interpreter(missing=("ssl", "zlib")))

    def test_root_does_not_depend_on_the_python_of_one_user(self) -> None:
        own = interpreter("/home/bob/.pyenv/versions/3.11.7/bin/python3.11")
        self.assert_refused("belongs to one user", own)
        self.assertEqual(own, choice(own, for_system=False))


class FactsTests(unittest.TestCase):
    PYTHON = (
        b'pkengine {"path": "/usr/bin/python3.11", "version": [3, 11, 2], '
        b'"suffix": ".cpython-311-x86_64-linux-gnu.so", "libc": "glibc 2.36", "missing": [], '
        b'"home": "/root", "has_own_folder": false, "own": {"free": 2048, "versions": []}, '
        b'"system": {"free": 1024, "versions": ["00ff"], "current": "00ff"}}\n'
    )
    LINES = b"Welcome to host.example!\npkengine systemd\n" + PYTHON + b"pkengine end\n"

    def test_facts_are_read_and_a_greeting_is_passed_over(self) -> None:
        facts = parse_facts(self.LINES)
        self.assertEqual((interpreter(),), facts.interpreters)
        installed = Installed(free=1024, versions=frozenset({"00ff"}), current="00ff")
        self.assertEqual(installed, facts.system)
        self.assertEqual(Installed(free=2048), facts.own)
        self.assertTrue(facts.has_systemd)
        self.assertFalse(facts.has_own_folder)

    def test_an_interpreter_with_two_names_is_one(self) -> None:
        facts = parse_facts(self.LINES.replace(self.PYTHON, 2 * self.PYTHON))
        self.assertEqual((interpreter(),), facts.interpreters)

    def test_a_host_without_an_interpreter_has_none(self) -> None:
        self.assertEqual((), parse_facts(b"pkengine end\n").interpreters)

    def test_whatever_is_cut_off_or_no_fact_is_an_error_with_a_reason(self) -> None:
        for output in (
            b"",
            b"\xff\xfe",
            self.LINES.removesuffix(b"end\n"),
            self.LINES.replace(b"1024", b'"lots"'),
            self.LINES.replace(b'"version": [3', b'"version": ["'),
        ):
            self.assertRaises(ValueError, parse_facts, output)

    def test_the_folders_are_quoted_for_the_shell(self) -> None:
        command = probe_command(SYSTEM_LAYOUT)
        self.assertTrue(command.startswith("exec /bin/sh -c "))
        self.assertTrue(command.endswith(" /opt/pkagent .local/share/pkagent"))

    def test_this_interpreter_describes_itself_as_the_host_would(self) -> None:
        self.assertTrue(Platform.of_this_process().runs_on(Platform.of_this_process()))
        self.assertEqual(sys.implementation.cache_tag, Platform.of_this_process().python_tag)
