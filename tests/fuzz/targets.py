"""What is fuzzed: one function a parser, and the seeds that it starts from.

A target takes any octets.  It may refuse them with the errors that the parser documents; any
other exception is a finding, and so is a broken promise, such as a value that is not read
back as it was written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping

from pkengine.auth.fields import MessageReader, decode_fields, encode_fields, frame
from pkengine.auth.handshake import Hello
from pkengine.auth.mac_records import MacRecords
from pkengine.auth.p256 import InvalidPoint, decode_point, encode_point
from pkengine.auth.peer import parse_peer_key
from pkengine.auth.ready import Ready
from pkengine.auth.shared_key import SharedKey
from pkengine.auth.trust import format_trust_line, parse_trust_line
from pkengine.channel.jsonrpc import MalformedMessage, decode_message, decoder
from pkengine.channel.records import RecordReader, encode_record
from pkengine.channel.websocket import websocket_stream
from pkengine.errors import (
    AuthenticationError,
    InvalidKeyText,
    ProtocolViolation,
    TrustFileError,
)
from pkengine.keys import SshFingerprint, SshPublicKey
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
    )
}


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
    }[name]
