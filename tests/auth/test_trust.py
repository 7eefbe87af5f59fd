"""Trust lines, and stores in memory and in files."""

from __future__ import annotations

import datetime
import os
import threading
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pkengine.auth import (
    FileTrustStore,
    MemoryTrustStore,
    TrustedPeer,
    format_trust_line,
    parse_trust_line,
)
from pkengine.auth.trust import REFRESH_S, utc_now
from pkengine.errors import TrustFileError
from pkengine.interfaces import ITrustStore
from pkengine.keys import Pin
from pkengine.keys.key_id import KeyId

PINS = [Pin(bytes([number]) * 32) for number in range(5)]
NEW_YEAR = datetime.datetime(2027, 1, 1, tzinfo=datetime.timezone.utc)
SECOND = datetime.timedelta(seconds=1)

WORDS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"),
    min_size=1,
    max_size=30,
)
MECHANISMS = WORDS.filter(lambda word: "," not in word)
TIMES = st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2999, 1, 1)).map(
    lambda time: time.replace(microsecond=0, tzinfo=datetime.timezone.utc)
)
COMMENTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), max_size=30)
KEYS = st.binary(min_size=32, max_size=32).map(Pin)
PEERS = st.builds(
    TrustedPeer,
    name=WORDS,
    key=KEYS,
    mechanisms=st.frozensets(MECHANISMS, min_size=1, max_size=3),
    expires=st.none() | TIMES,
    comment=COMMENTS,
)


class TimeOfDay:
    """A clock for expiry."""

    def __init__(self) -> None:
        self.now = NEW_YEAR - 10 * SECOND

    def __call__(self) -> datetime.datetime:
        return self.now


class Lines(SynchronousTestCase):
    @given(PEERS)
    def test_a_record_survives_writing_and_reading(self, peer: TrustedPeer) -> None:
        self.assertEqual(parse_trust_line(format_trust_line(peer)), peer)

    @given(st.text(max_size=120))
    def test_any_text_is_read_or_refused_with_a_sentence(self, line: str) -> None:
        try:
            parse_trust_line(line)
        except TrustFileError as error:
            self.assertTrue(str(error))

    def test_a_line_has_the_documented_form(self) -> None:
        line = f"{PINS[0]} name=engine-1 mechanism=sign expires=2027-01-01T00:00:00Z # spare key"
        peer = TrustedPeer("engine-1", PINS[0], frozenset({"sign"}), NEW_YEAR, "spare key")
        self.assertEqual(parse_trust_line(line), peer)
        self.assertEqual(format_trust_line(peer), line)

    def test_empty_lines_and_comments_are_no_records(self) -> None:
        for line in ("", "   ", "# the engines", "\t# more"):
            self.assertIsNone(parse_trust_line(line))

    def test_a_key_id_stands_where_a_pin_may(self) -> None:
        key = KeyId(b"\x01" * 16)
        peer = parse_trust_line(f"{key} name=engine mechanism=hmac")
        self.assertEqual(peer, TrustedPeer("engine", key, frozenset({"hmac"})))

    def test_a_line_may_allow_several_mechanisms(self) -> None:
        line = f"{PINS[0]} name=engine mechanism=pin,sign"
        peer = TrustedPeer("engine", PINS[0], frozenset({"pin", "sign"}))
        self.assertEqual(parse_trust_line(line), peer)
        self.assertEqual(parse_trust_line(line.replace("pin,sign", "sign,pin")), peer)
        self.assertEqual(format_trust_line(peer), line)

    def test_malformed_lines_are_refused_with_what_was_expected(self) -> None:
        pin = str(PINS[0])
        for line, expected in (
            ("engine-1", "is not a pin"),
            (pin, "has no name: add name=NAME"),
            (f"{pin} name=", "printable ASCII"),
            (f"{pin} name=é", "printable ASCII"),
            (f"{pin} name={'x' * 256}", "1 to 255"),
            (f"{pin} name=a name=b", "stands there twice"),
            (f"{pin} name=a trust", "has no value"),
            (f"{pin} name=a colour=blue", "expected each of name, mechanism, expires"),
            (f"{pin} name=a mechanism=pin,", "each once, with a comma"),
            (f"{pin} name=a mechanism=,", "each once, with a comma"),
            (f"{pin} name=a mechanism=pin,pin", "each once, with a comma"),
            (f"{pin} name=a expires=tomorrow", "expected UTC such as 2027-01-01T00:00:00Z"),
            (f"{pin} name=a expires=2027-01-01T00:00:00+01:00", "expected UTC"),
        ):
            with self.assertRaisesRegex(TrustFileError, expected):
                parse_trust_line(line)

    def test_what_cannot_stand_in_a_line_is_not_written(self) -> None:
        for name, mechanism, comment in (
            ("two words", "pin", ""),
            ("a#b", "pin", ""),
            ("a expires=2027-01-01T00:00:00Z", "pin", ""),
            ("", "pin", ""),
            ("a", "p n", ""),
            ("a", "p,n", ""),
            ("a", "", ""),
            ("a", "pin", "one\ntwo"),
            ("a\n" + str(PINS[1]), "pin", ""),
        ):
            with self.assertRaises(TrustFileError):
                format_trust_line(
                    TrustedPeer(name, PINS[0], frozenset({mechanism}), comment=comment)
                )


class InMemory(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = TimeOfDay()
        self.store = MemoryTrustStore([TrustedPeer("engine-1", PINS[0])], clock=self.time)
        self.clock = Clock()
        self.lost: list[Any] = []

    def watch(self) -> None:
        self.addCleanup(self.store.watch(self.lost.append, self.clock))

    def test_it_provides_the_interface(self) -> None:
        self.assertTrue(ITrustStore.providedBy(self.store))

    def test_a_key_is_accepted_from_add_to_remove(self) -> None:
        peer = TrustedPeer("engine-2", PINS[1])
        self.store.add(peer)
        self.assertEqual(self.store.lookup(PINS[1]), peer)
        self.assertEqual({each.name for each in self.store.peers()}, {"engine-1", "engine-2"})
        self.store.remove(PINS[1])
        self.assertIsNone(self.store.lookup(PINS[1]))

    def test_removing_an_unknown_key_is_an_error(self) -> None:
        with self.assertRaises(KeyError):
            self.store.remove(PINS[1])

    def test_an_old_and_a_new_key_are_both_accepted_until_the_old_one_is_removed(self) -> None:
        self.store.add(TrustedPeer("engine-1", PINS[1]))
        self.assertIsNotNone(self.store.lookup(PINS[0]))
        self.assertIsNotNone(self.store.lookup(PINS[1]))
        self.store.remove(PINS[0])
        self.assertIsNone(self.store.lookup(PINS[0]))
        self.assertIsNotNone(self.store.lookup(PINS[1]))

    def test_watchers_hear_at_once_of_a_removed_key(self) -> None:
        self.watch()
        self.store.remove(PINS[0])
        self.assertEqual(self.lost, [PINS[0]])

    def test_another_name_or_mechanism_is_a_loss_of_trust_and_a_comment_is_not(self) -> None:
        self.watch()
        self.store.add(TrustedPeer("engine-1", PINS[0], comment="new", expires=NEW_YEAR))
        self.assertEqual(self.lost, [])
        self.store.add(TrustedPeer("engine-2", PINS[0]))
        self.store.add(TrustedPeer("engine-2", PINS[0], frozenset({"sign"})))
        self.assertEqual(self.lost, [PINS[0], PINS[0]])

    def test_losing_one_mechanism_of_several_is_a_loss_of_trust_and_getting_one_is_not(
        self,
    ) -> None:
        self.watch()
        self.store.add(TrustedPeer("engine-1", PINS[0], frozenset({"pin", "sign"})))
        self.assertEqual(self.lost, [])
        self.store.add(TrustedPeer("engine-1", PINS[0], frozenset({"sign"})))
        self.assertEqual(self.lost, [PINS[0]])

    def test_trust_ends_when_it_expires(self) -> None:
        self.store.add(TrustedPeer("engine-2", PINS[1], expires=NEW_YEAR))
        self.assertIsNotNone(self.store.lookup(PINS[1]))
        self.time.now = NEW_YEAR
        self.assertIsNone(self.store.lookup(PINS[1]))
        self.assertIsNotNone(self.store.lookup(PINS[0]))

    def test_watchers_hear_of_an_expiry_though_nobody_looks(self) -> None:
        self.store.add(TrustedPeer("engine-2", PINS[1], expires=NEW_YEAR))
        self.watch()
        self.clock.advance(REFRESH_S)
        self.assertEqual(self.lost, [])
        self.time.now = NEW_YEAR
        self.clock.advance(REFRESH_S)
        self.assertEqual(self.lost, [PINS[1]])

    def test_a_record_that_has_expired_already_is_never_accepted(self) -> None:
        self.store.add(TrustedPeer("engine-2", PINS[1], expires=self.time.now))
        self.assertIsNone(self.store.lookup(PINS[1]))

    def test_no_timer_is_left_when_nobody_watches_any_more(self) -> None:
        stops = [self.store.watch(self.lost.append, self.clock) for _ in range(3)]
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for stop in stops:
            stop()
            stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_watcher_that_fails_keeps_no_other_from_hearing(self) -> None:
        def fail(_: Any) -> None:
            raise RuntimeError("a watcher fails")

        self.addCleanup(self.store.watch(fail, self.clock))
        self.watch()
        self.store.remove(PINS[0])
        self.assertEqual(self.lost, [PINS[0]])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_store_that_cannot_be_refreshed_is_logged(self) -> None:
        class Broken(MemoryTrustStore):
            def refresh(self) -> None:
                raise RuntimeError("the store fails")

        self.store = Broken()
        self.watch()
        self.clock.advance(REFRESH_S)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.store._watch_loop = None  # it has ended by itself

    def test_the_time_of_day_has_a_time_zone(self) -> None:
        self.assertEqual(utc_now().utcoffset(), datetime.timedelta(0))


class InAFile(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.time = TimeOfDay()
        self.lost: list[Any] = []

    def write(self, *lines: str, mode: int = 0o600) -> None:
        self.path.write_text("".join(line + "\n" for line in lines))
        self.path.chmod(mode)

    def open(self) -> FileTrustStore:
        return FileTrustStore(self.path, clock=self.time)

    def test_a_missing_file_accepts_nobody(self) -> None:
        self.assertEqual(list(self.open().peers()), [])

    def test_comments_and_several_keys_are_read(self) -> None:
        self.write("# engines", "", f"{PINS[0]} name=a", f"{PINS[1]} name=a # second")
        self.assertEqual({peer.key for peer in self.open().peers()}, {PINS[0], PINS[1]})

    def test_malformed_files_are_refused_with_file_and_line(self) -> None:
        for lines, expected in (
            (["# engines", f"{PINS[0]} name=a", "garbage"], "line 3: 'garbage' is not a pin"),
            ([f"{PINS[0]} name=a", f"{PINS[0]} name=b"], "line 2: .* stands in line 1 too"),
        ):
            self.write(*lines)
            with self.assertRaisesRegex(TrustFileError, f"{self.path}, {expected}"):
                self.open()

    def test_octets_that_are_no_text_are_refused_with_file_and_line(self) -> None:
        self.path.write_bytes(b"# a\n\xff\xfe\n")
        self.path.chmod(0o600)
        with self.assertRaisesRegex(TrustFileError, "line 2: expected UTF-8"):
            self.open()

    def test_a_file_that_others_may_write_is_refused_with_the_command_that_mends_it(self) -> None:
        self.write(f"{PINS[0]} name=a", mode=0o664)
        with self.assertRaisesRegex(TrustFileError, f"mode 0664.*Run: chmod go-w {self.path}"):
            self.open()
        self.path.chmod(0o644)
        self.assertIsNotNone(self.open().lookup(PINS[0]))

    def test_a_folder_in_place_of_the_file_is_refused(self) -> None:
        self.path.mkdir()
        with self.assertRaisesRegex(TrustFileError, "Is a directory"):
            self.open()

    def test_a_change_on_disk_is_seen_at_the_next_lookup(self) -> None:
        self.write(f"{PINS[0]} name=a")
        store = self.open()
        self.write(f"{PINS[1]} name=b")
        self.assertIsNone(store.lookup(PINS[0]))
        self.assertIsNotNone(store.lookup(PINS[1]))

    def test_a_change_on_disk_reaches_watchers_though_nobody_looks(self) -> None:
        self.write(f"{PINS[0]} name=a", f"{PINS[1]} name=b")
        store, clock = self.open(), Clock()
        self.addCleanup(store.watch(self.lost.append, clock))
        clock.advance(REFRESH_S)
        self.assertEqual(self.lost, [])
        self.write(f"{PINS[1]} name=b")
        clock.advance(REFRESH_S)
        self.assertEqual(self.lost, [PINS[0]])

    def test_a_removed_file_withdraws_all_trust(self) -> None:
        self.write(f"{PINS[0]} name=a")
        store = self.open()
        self.path.unlink()
        self.assertIsNone(store.lookup(PINS[0]))

    def test_a_malformed_change_is_never_half_applied_and_is_logged_once(self) -> None:
        self.write(f"{PINS[0]} name=a")
        store, clock = self.open(), Clock()
        self.addCleanup(store.watch(self.lost.append, clock))
        self.write(f"{PINS[1]} name=b", "garbage")
        with capturedLogs() as events:
            clock.pump([REFRESH_S] * 3)
            self.assertIsNotNone(store.lookup(PINS[0]))
            self.assertIsNone(store.lookup(PINS[1]))
        self.assertEqual(self.lost, [])
        (event,) = [each for each in events if "reason" in each]
        self.assertIn(f"{self.path}, line 2", event["reason"])
        self.write(f"{PINS[1]} name=b")
        self.assertIsNotNone(store.lookup(PINS[1]))
        self.assertEqual(self.lost, [PINS[0]])

    def test_expiry_in_a_file_ends_trust(self) -> None:
        self.write(f"{PINS[0]} name=a expires=2027-01-01T00:00:00Z")
        store = self.open()
        self.assertIsNotNone(store.lookup(PINS[0]))
        self.time.now = NEW_YEAR + SECOND
        self.assertIsNone(store.lookup(PINS[0]))

    def test_adding_keeps_comments_and_other_lines(self) -> None:
        self.write("# engines", f"{PINS[0]} name=a # first")
        store = self.open()
        store.add(TrustedPeer("b", PINS[1]))
        self.assertEqual(
            self.path.read_text().splitlines(),
            ["# engines", f"{PINS[0]} name=a # first", f"{PINS[1]} name=b"],
        )
        self.assertIsNotNone(store.lookup(PINS[1]))

    def test_adding_a_known_key_replaces_its_line(self) -> None:
        self.write(f"{PINS[0]} name=a", f"{PINS[1]} name=b")
        self.open().add(TrustedPeer("c", PINS[0]))
        self.assertEqual(
            self.path.read_text().splitlines(), [f"{PINS[1]} name=b", f"{PINS[0]} name=c"]
        )

    def test_removing_takes_the_line_out_and_tells_watchers(self) -> None:
        self.write("# engines", f"{PINS[0]} name=a", f"{PINS[1]} name=b")
        store = self.open()
        self.addCleanup(store.watch(self.lost.append, Clock()))
        store.remove(PINS[0])
        self.assertEqual(self.path.read_text().splitlines(), ["# engines", f"{PINS[1]} name=b"])
        self.assertEqual(self.lost, [PINS[0]])
        with self.assertRaises(KeyError):
            store.remove(PINS[0])

    def test_what_this_store_writes_is_private(self) -> None:
        self.open().add(TrustedPeer("a", PINS[0]))
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_a_malformed_file_is_not_overwritten(self) -> None:
        self.write(f"{PINS[0]} name=a")
        store = self.open()
        self.write("garbage")
        with self.assertRaises(TrustFileError):
            store.add(TrustedPeer("b", PINS[1]))
        with self.assertRaises(TrustFileError):
            store.remove(PINS[0])
        self.assertEqual(self.path.read_text(), "garbage\n")

    def test_a_missing_folder_is_named(self) -> None:
        store = FileTrustStore(self.path / "none" / "trust")
        with self.assertRaisesRegex(TrustFileError, "Cannot open the folder"):
            store.add(TrustedPeer("a", PINS[0]))

    def test_an_unreadable_place_is_not_taken_for_an_empty_file(self) -> None:
        self.write(f"{PINS[0]} name=a")
        with self.assertRaisesRegex(TrustFileError, "Not a directory"):
            FileTrustStore(self.path / "below a file")

    def test_two_writers_lose_no_line(self) -> None:
        stores = [self.open() for _ in range(4)]

        def add(number: int, store: FileTrustStore) -> None:
            for count in range(8):
                pin = Pin(bytes([number, count]) + b"x" * 30)
                store.add(TrustedPeer(f"peer-{number}-{count}", pin))

        threads = [
            threading.Thread(target=add, args=(number, store))
            for number, store in enumerate(stores)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(list(self.open().peers())), 32)
        self.assertEqual(
            [
                name
                for name in os.listdir(self.path.parent)
                if name.startswith(f".{self.path.name}")
            ],
            [],
        )
