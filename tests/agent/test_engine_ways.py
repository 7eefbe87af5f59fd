"""Another way to an engine takes the place of the old one, and nothing can end without a way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pkengine.agent.dialled_engines import DialledEngine, DialledEngines, Mechanism
from pkengine.agent.engine_ways import EngineWay, EngineWays
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.shared_key import SharedKey, SharedKeyFolder
from pkengine.auth.trust import FileTrustStore
from pkengine.keys import Pin
from pkengine.keys.key_id import KeyId

ENGINE = Pin(b"e" * 32)
OTHER = TrustedPeer("engine-2", Pin(b"o" * 32), comment="another engine")
OTHER_SECRET = SharedKey.generate("hmac", local="host-1", peer="engine-2")


def way(mechanism: Mechanism, url: str = "wss://engine.example") -> EngineWay:
    """Give a way, with a fresh secret where it needs one; without a URL the engine dials."""
    secret = None
    key: Pin | KeyId = ENGINE
    if mechanism in ("hmac", "spake2plus"):
        secret = SharedKey.generate(mechanism, local="host-1", peer="engine-1")
        key = secret.key_id
    engine = DialledEngine(url, mechanism, "authority") if url else None
    return EngineWay(TrustedPeer("engine-1", key, frozenset({mechanism})), engine, secret)


def every_way() -> list[EngineWay]:
    mechanisms: tuple[Mechanism, ...] = ("pin", "sign", "hmac", "spake2plus")
    return [way("pin", url=""), *map(way, mechanisms)]


class Disk:
    """The state of an agent, read anew each time, as after a restart."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700)
        self.path = path
        self.trust.add(OTHER)
        self.secrets.add(OTHER_SECRET)

    @property
    def trust(self) -> FileTrustStore:
        return FileTrustStore(self.path / "authorized_engines")

    @property
    def secrets(self) -> SharedKeyFolder:
        return SharedKeyFolder(self.path / "secrets")

    @property
    def dialled(self) -> DialledEngines:
        return DialledEngines(self.path / "engines.d")

    @property
    def ways(self) -> EngineWays:
        return EngineWays(self.trust, self.secrets, self.dialled)

    def is_open(self, way: EngineWay) -> bool:
        """Tell whether an agent that starts now would meet its engine by that way."""
        peer = self.trust.lookup(way.peer.key)
        engines, errors = self.dialled.all()
        assert not errors
        return (
            peer is not None
            and peer.name == way.peer.name
            and way.peer.mechanisms <= peer.mechanisms
            and engines.get("engine-1") == way.engine
            and (way.secret is None or self.secrets.key(way.secret.key_id) == way.secret)
        )

    def has_just(self, way: EngineWay) -> bool:
        """Tell whether nothing is left of any other way of the same engine."""
        peers = {peer for peer in self.trust.peers() if peer != OTHER}
        kept = self.secrets.keys()
        secrets = {key.key_id for key in kept} - {OTHER_SECRET.key_id}
        wanted = {way.secret.key_id} if way.secret else set()
        return self.is_open(way) and peers == {way.peer} and secrets == wanted


class Changes(SynchronousTestCase):
    def changes(self) -> Iterator[tuple[EngineWay, EngineWay]]:
        """Give every change that there is, also to a fresh key and to another URL."""
        yield from itertools.product(every_way(), every_way())
        yield way("pin"), way("pin", "wss://moved.example")
        yield way("sign"), way("sign", "wss://moved.example")

    def disk(self, old: EngineWay) -> Disk:
        disk = Disk(Path(self.mktemp()))
        disk.ways.make_only(old)
        assert disk.has_just(old)
        return disk

    def test_every_way_can_take_the_place_of_every_other(self) -> None:
        for old, new in self.changes():
            disk = self.disk(old)
            disk.ways.make_only(new)
            self.assertTrue(disk.has_just(new), f"{old} {new}")
            self.assertEqual(disk.trust.lookup(OTHER.key), OTHER)
            self.assertEqual(disk.secrets.key(OTHER_SECRET.key_id), OTHER_SECRET)

    def test_a_change_that_is_cut_off_anywhere_leaves_a_way_that_works(self) -> None:
        for old, new in self.changes():
            for done in itertools.count():
                disk = self.disk(old)
                steps = disk.ways.steps(new)
                if done > len(steps):
                    break
                for step in steps[:done]:
                    step()
                is_old, is_new = disk.is_open(old), disk.is_open(new)
                self.assertTrue(is_old or is_new, f"{old} {new} {done}")
                # Whichever it is that the engine meets, it can be made the only one.
                for is_open, settled in ((is_old, old), (is_new, new)):
                    if is_open:
                        disk.ways.make_only(settled)
                        self.assertTrue(disk.has_just(settled), f"{old} {new} {done}")

    def test_a_file_that_is_not_utf_8_is_named_and_keeps_no_other_engine_from_being_read(
        self,
    ) -> None:
        directory = Path(self.mktemp())
        dialled = DialledEngines(directory)
        for name in ("engine-1", "engine-2"):
            dialled.put(name, DialledEngine("wss://engine", "pin", "authority"))
        path = directory / "engine-1.json"
        path.write_bytes(path.read_bytes().replace(b"engine", b"\xe9ngine"))
        engines, [error] = dialled.all()
        self.assertEqual(list(engines), ["engine-2"])
        self.assertIn(f"{path} does not describe an engine", str(error))

    def test_a_way_that_is_there_already_stays_as_it_is(self) -> None:
        for old in every_way():
            disk = self.disk(old)
            disk.ways.make_only(EngineWay(old.peer, old.engine))
            self.assertTrue(disk.has_just(old))
