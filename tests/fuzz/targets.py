"""What is fuzzed: one function a parser, and the seeds that it starts from.

A target takes any octets.  It may refuse them with the errors that the parser documents; any
other exception is a finding, and so is a broken promise, such as a value that is not read
back as it was written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import msgspec
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping

from pkengine.agent.connected_engines import ConnectedEngines
from pkengine.agent.dialled_engines import DialledEngines
from pkengine.agent.engine_ways import EngineWays
from pkengine.agent.initialization import read_dial
from pkengine.agent.trial_trust import TrialTrust
from pkengine.agent.way_changes import WayChanges
from pkengine.auth.fields import MessageReader, decode_fields, encode_fields, frame
from pkengine.auth.handshake import Hello
from pkengine.auth.join_code import MOST_NUMBER, JoinCode, join_key_id
from pkengine.auth.key_agreement import KeyAgreement
from pkengine.auth.mac_records import MacRecords
from pkengine.auth.p256 import InvalidPoint, decode_point, encode_point
from pkengine.auth.peer import Role, parse_peer_key
from pkengine.auth.ready import Ready
from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS, MemorySharedKeys, SharedKey
from pkengine.auth.trust import MemoryTrustStore, format_trust_line, parse_trust_line
from pkengine.channel.engine_url import parse_engine_url
from pkengine.channel.join_verbs import JoinRequest
from pkengine.channel.jsonrpc import MalformedMessage, decode_message, decoder
from pkengine.channel.records import RecordReader, encode_record
from pkengine.channel.verbs import PrepareWay
from pkengine.channel.websocket import websocket_stream
from pkengine.engine.hosts import request
from pkengine.engine.proxy_protocol import MalformedHeader, read_header
from pkengine.engine.trusted_proxies import TrustedProxies
from pkengine.errors import (
    AgentError,
    AuthenticationError,
    InvalidJoinCode,
    InvalidKeyLimits,
    InvalidKeyText,
    KnownHostsError,
    PkengineError,
    ProtocolViolation,
    TrustFileError,
)
from pkengine.keys import Pin, SshFingerprint, SshPublicKey
from pkengine.ssh.authorized_keys import AuthorizedKey, authorize, deauthorize
from pkengine.ssh.key_limits import parse_limits
from pkengine.ssh.known_hosts import KnownHosts
from tests.agent.test_way_changes import FakeChannel, FakeDialler, FakeListener
from tests.auth.exchanges import EVERY_MECHANISM, Ends, messages
from tests.channel.test_websocket import Recorder, Wire

Target = Callable[[bytes], None]


def fields(data: bytes) -> None:
    count = data[0] % 12 if data else 0
    with contextlib.suppress(AuthenticationError):
        found = decode_fields(data[1:], count)
        assert encode_fields(*found) == data[1:]


def message_reader(data: bytes) -> None:
    whole, split = MessageReader(), MessageReader()
    with contextlib.suppress(AuthenticationError):
        expected = whole.feed(data)
        pieces = [split.feed(data[i : i + 1]) for i in range(len(data))]
        found = next((piece for piece in pieces if piece is not None), None)
        assert found == expected


def hello(data: bytes) -> None:
    with contextlib.suppress(AuthenticationError):
        found = decode_fields(data, 8)
        assert Hello.from_fields(found).encode() == data


def ready(data: bytes) -> None:
    with contextlib.suppress(AuthenticationError):
        assert Ready.decode(data).encode() == frame(data)


def trust_line(data: bytes) -> None:
    line = data.decode("utf-8", "replace")
    with contextlib.suppress(TrustFileError):
        peer = parse_trust_line(line)
        if peer is not None and len(line.splitlines()) == 1:
            assert parse_trust_line(format_trust_line(peer)) == peer


def shared_key(data: bytes) -> None:
    with contextlib.suppress(InvalidKeyText):
        key = SharedKey.decode(data)
        assert SharedKey.decode(key.encode()) == key


def key_texts(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(InvalidKeyText):
        assert str(parse_peer_key(text)) == text
    with contextlib.suppress(InvalidKeyText):
        fingerprint = SshFingerprint.parse(text)
        assert SshFingerprint.parse(str(fingerprint)) == fingerprint
    with contextlib.suppress(InvalidKeyText):
        key = SshPublicKey.parse(text)
        assert SshPublicKey.parse(str(key)) == key


def point(data: bytes) -> None:
    with contextlib.suppress(InvalidPoint):
        assert encode_point(decode_point(data)) == data


def mac_records(data: bytes) -> None:
    records = MacRecords(b"a" * 32, b"b" * 32, clock=Clock().seconds)
    with contextlib.suppress(AuthenticationError):
        assert records.open(data) == b"", "no octets have a right MAC by chance"


def channel_records(data: bytes) -> None:
    reader = RecordReader(max_payload=4096)
    with contextlib.suppress(ProtocolViolation):
        found = list(reader.feed(data))
        assert data.startswith(b"".join(encode_record(*record) for record in found))


def jsonrpc(data: bytes) -> None:
    with contextlib.suppress(MalformedMessage, ProtocolViolation):
        message = decode_message(data)
        for part in (message.params, message.result):
            if isinstance(part, msgspec.Raw):
                with contextlib.suppress(msgspec.DecodeError, RecursionError):
                    decoder(object).decode(part)


def websocket(data: bytes) -> None:
    """The octets are frames for either end, whole and one by one."""
    for role in (ConnectionType.SERVER, ConnectionType.CLIENT):
        received = []
        for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
            application = Recorder()
            wire = Wire()
            stream = websocket_stream(Connection(role), application, wire, Clock())
            stream.makeConnection(wire)
            for piece in pieces:
                stream.dataReceived(piece)
            stream.connectionLost(Failure(ConnectionDone()))
            received.append(b"".join(application.received))
        assert received[0] == received[1]


_ENDS: dict[str, Ends] = {}


def acceptor(data: bytes) -> None:
    """The octets are M1 of the mechanism that the first of them chooses."""
    ends = _ends(data)
    exchange = ends.engine.acceptor()
    exchange.start()
    with contextlib.suppress(AuthenticationError):
        exchange.receive(data[1:])
    assert exchange.outcome is None


def initiator(data: bytes) -> None:
    """The octets are M2 of the mechanism that the first of them chooses."""
    exchange = _ends(data).agent.initiator("engine")
    exchange.start()
    with contextlib.suppress(AuthenticationError):
        exchange.receive(data[1:])
    assert exchange.outcome is None


def _ends(data: bytes) -> Ends:
    names = sorted(EVERY_MECHANISM)
    name = names[data[0] % len(names)] if data else names[0]
    if name not in _ENDS:
        _ENDS[name] = EVERY_MECHANISM[name]()
    return _ENDS[name]


def join_code(data: bytes) -> None:
    with contextlib.suppress(InvalidJoinCode):
        code = JoinCode.parse(data.decode("utf-8", "replace"))
        assert 1 <= code.number <= MOST_NUMBER
        assert JoinCode.parse(code.reveal()) == code
        join_key_id(code.number)


_SHARE = KeyAgreement("hmac", local="engine", peer="host", role=Role.ACCEPTOR).share


def key_agreement(data: bytes) -> None:
    """The octets are the share that the other end sends, for both mechanisms and roles."""
    text = data.decode("utf-8", "replace")
    for mechanism in SHARED_KEY_MECHANISMS:
        for role in Role:
            agreement = KeyAgreement(mechanism, local="a", peer="b", role=role)
            with contextlib.suppress(InvalidKeyText):
                half = agreement.agree(text)
                assert (half.mechanism, half.local, half.peer) == (mechanism, "a", "b")
                assert SharedKey.decode(half.encode()) == half


def dial(data: bytes) -> None:
    """The octets are what an engine tells an agent while it installs it."""
    with contextlib.suppress(AgentError):
        read_dial(data).engine.check()


def prepare_way(data: bytes) -> None:
    """The octets are parameters of ``Engine.prepare``; the engine that asks is the one named."""
    try:
        wanted = msgspec.json.decode(data, type=PrepareWay)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    clock, known = Clock(), MemoryTrustStore()
    trust, dialled = TrialTrust(known), DialledEngines(Path("nowhere"))
    changes = WayChanges(
        clock,
        own=Pin(b"a" * 32),
        trust=trust,
        ways=EngineWays(trust, MemorySharedKeys(), dialled),
        dialled=dialled,
        dialler=FakeDialler(),
        listener=FakeListener(),
        connect=lambda *_: (_ for _ in ()).throw(AssertionError("nobody asked for that")),
        connected=ConnectedEngines(clock, lambda: None),
    )
    with contextlib.suppress(PkengineError):
        prepared = changes.prepare(wanted, FakeChannel(name=wanted.name))
        assert (prepared.share is None) == (wanted.mechanism not in SHARED_KEY_MECHANISMS)
        assert len(trust.peers()) == 1
    changes.stop()
    assert (trust.peers(), clock.getDelayedCalls()) == ((), [])


def join_request(data: bytes) -> None:
    """The octets are parameters of ``Host.join``."""
    try:
        wanted = msgspec.json.decode(data, type=JoinRequest)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    with contextlib.suppress(PkengineError):
        name = request.name(wanted.name)
        assert request.name(name) == name
    with contextlib.suppress(PkengineError):
        address = request.address(wanted.address)
        assert request.address(address) == address
    with contextlib.suppress(PkengineError):
        url = parse_engine_url(wanted.url)
        assert parse_engine_url(url.geturl()) == url


def proxy_header(data: bytes) -> None:
    with contextlib.suppress(MalformedHeader):
        header = read_header(data)
        if header is not None:
            assert header.length <= len(data)
            assert read_header(data[: header.length]) == header
            assert read_header(data[: header.length - 1]) is None
            _assert_plain(header.source)


def forwarded_for(data: bytes) -> None:
    """The octets are lines of ``X-Forwarded-For`` that a client sends."""
    lines = data.decode("latin-1").split("\n")
    trusted = TrustedProxies.parse("192.0.2.0/24,2001:db8::/32")
    proxy, stranger = (IPv4Address("TCP", host, 1) for host in ("192.0.2.7", "198.51.100.1"))
    assert trusted.client(stranger, lines) == stranger
    _assert_plain(trusted.client(proxy, lines))
    seen = trusted.client(proxy, [*lines, "203.0.113.9"])
    assert seen.host == "203.0.113.9"  # what the proxy adds, and nothing left of it


def _assert_plain(address: object) -> None:
    """Whoever is named is named in one way: limits and records are kept by that text."""
    if address is not None:
        host = address.host
        assert str(ip_address(host)) == host
        assert "%" not in host


_SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


def key_limits(data: bytes) -> None:
    with contextlib.suppress(InvalidKeyLimits):
        options = parse_limits(data.decode("utf-8", "replace"))
        assert parse_limits(",".join(options)) == options
        line = AuthorizedKey(_SSH_KEY, options, "pkengine@a")
        assert len(str(line).splitlines()) == 1
        assert AuthorizedKey.parse(str(line)) == line


def authorized_keys(data: bytes) -> None:
    """The octets are the file that is found on a host."""
    text = data.decode("utf-8", "surrogateescape")
    entry = AuthorizedKey(_SSH_KEY, ("restrict",), "pkengine@a")
    authorized = authorize(text, entry)
    assert authorize(authorized, entry) == authorized
    left = deauthorize(authorized, marker=entry.marker, keys=[entry.key])
    assert not any(
        known.key == entry.key
        for known in map(AuthorizedKey.parse, left.split("\n"))
        if known is not None
    )


def known_hosts(data: bytes) -> None:
    with contextlib.suppress(KnownHostsError):
        known = KnownHosts.parse(data.decode("utf-8", "replace"))
        assert KnownHosts.parse(str(known)).lines == known.lines
        policy = known.policy("node1.example", 2222)
        assert not set(policy.stored) & set(policy.revoked)


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        fields,
        message_reader,
        hello,
        ready,
        trust_line,
        shared_key,
        key_texts,
        point,
        mac_records,
        channel_records,
        jsonrpc,
        websocket,
        acceptor,
        initiator,
        join_code,
        key_agreement,
        dial,
        prepare_way,
        join_request,
        proxy_header,
        forwarded_for,
        key_limits,
        authorized_keys,
        known_hosts,
    )
}


_URL = "wss://engine.example/pkengine/agent"


def _json(**members: object) -> bytes:
    return msgspec.json.encode(members)


def seeds(name: str) -> list[bytes]:
    """Give well-formed input for a target, so that the fuzzer begins behind the front door."""
    runs = [messages(*_ends(bytes([number])).dial()) for number in range(len(EVERY_MECHANISM))]
    pin = b"sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    return {
        "fields": [b"\2" + encode_fields(b"one", b"")],
        "message_reader": [frame(b"message")],
        "hello": [run[0][2:] for run in runs],
        "ready": [encode_fields(b"pkengine ready", b"\1", b"pin", b"a", b"b", bytes(8))],
        "trust_line": [
            pin + b" name=engine-1 expires=2027-01-01T00:00:00Z # comment",
            b"kid//" + b"0" * 32 + b" name=agent mechanism=hmac",
        ],
        "shared_key": [SharedKey.generate("hmac", local="a", peer="b").encode()],
        "key_texts": [
            pin,
            b"SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            b"MD5:" + b":".join([b"00"] * 16),
            b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
        ],
        "point": [b"\4" + bytes(64)],
        "mac_records": [b"\0\0\0\5\1hello" + bytes(32)],
        "channel_records": [encode_record(1, b"{}") + encode_record(2, b"")],
        "jsonrpc": [
            b'{"jsonrpc":"2.0","id":1,"method":"Host.ping2","params":{}}',
            b'{"jsonrpc":"2.0","id":1,"result":true}',
            b'{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}',
        ],
        "websocket": [
            Connection(ConnectionType.CLIENT).send(BytesMessage(data=b"hello")),
            Connection(ConnectionType.SERVER).send(BytesMessage(data=b"hello")),
            Connection(ConnectionType.CLIENT).send(Ping(b"p")),
            Connection(ConnectionType.CLIENT).send(CloseConnection(1000, "bye")),
        ],
        "acceptor": [bytes([number]) + run[0] for number, run in enumerate(runs)],
        "initiator": [bytes([number]) + run[1] for number, run in enumerate(runs)],
        "join_code": [b"7-guitar-volcano", b" 999 Guitar, VOLCANO\n", b"7guitr.volcano"],
        "key_agreement": [_SHARE.encode(), b"A" * 43],
        "dial": [
            _json(
                name="engine",
                engine={"url": _URL, "mechanism": mechanism, "server": server},
                **more,
            )
            for mechanism, server, more in (
                ("pin", "authority", {}),
                ("hmac", pin.decode(), {"hostId": "host", "share": _SHARE}),
            )
        ],
        "prepare_way": [
            _json(
                name="engine",
                hostId="host",
                enginePin=pin.decode(),
                connection=connection,
                mechanism=mechanism,
                **more,
            )
            for connection, mechanism, more in (
                ("engine-dials", "pin", {}),
                ("agent-dials", "sign", {"url": _URL, "server": "authority"}),
                ("agent-dials", "hmac", {"url": _URL, "server": "authority", "share": _SHARE}),
                ("agent-dials", "spake2plus", {"url": _URL, "server": pin.decode(), "share": ""}),
            )
        ],
        "join_request": [_json(name="web7", address="192.0.2.7", url=_URL, version="1.0")],
        "proxy_header": [
            b"PROXY TCP4 198.51.100.1 192.0.2.1 4711 443\r\nhello",
            b"PROXY TCP6 2001:db8::9 2001:db8::1 4711 443\r\n",
            b"PROXY UNKNOWN\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24" + bytes(36),
            b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        ],
        "forwarded_for": [
            b"198.51.100.1",
            b"10.0.0.1, 192.0.2.8\n2001:db8::9",
            b"[2001:db8::9]:4711, 198.51.100.1:80",
            b"::ffff:198.51.100.1",
        ],
        "key_limits": [
            b'restrict,from="*.example.com,!bad.example.com,2001:db8::/32,192.0.2.?"',
            b'restrict,port-forwarding,permitopen="[2001:db8::1]:*",permitlisten="8080"',
            b'expiry-time="203012312359Z",environment="LANG=C, or so",tunnel="0"',
        ],
        "authorized_keys": [
            f'# mine\n{line}\nrestrict,from="10.0.0.0/8" {line}\n'.encode()
            for line in (f"{_SSH_KEY} pkengine", f"{_SSH_KEY} me@home", f"{_SSH_KEY} pkengine@a b")
        ],
        "known_hosts": [
            f"node1.example,!node2 {_SSH_KEY} comment\n".encode(),
            f"@revoked * {_SSH_KEY}\n@cert-authority *.example {_SSH_KEY}\n".encode(),
            f"|1|{'A' * 27}=|{'A' * 27}= {_SSH_KEY}\n[node1.example]:2222 {_SSH_KEY}\n".encode(),
        ],
    }[name]
