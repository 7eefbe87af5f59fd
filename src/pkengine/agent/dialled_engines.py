"""The engines that the agent dials, as they stand in its state folder.

``engines.d/NAME.json`` describes one engine; NAME is what ``authorized_engines`` calls it::

    {
     "url": "wss://engine.example:8443/pkengine/agent",
     "mechanism": "hmac",
     "server": "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    }
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult

import msgspec

from pkengine.channel.engine_url import AUTHORITY, parse_engine_url
from pkengine.channel.http_proxy import HttpProxy
from pkengine.errors import KeyFileError, PkengineError
from pkengine.keys import Pin
from pkengine.keys.files import make_private_directory, read_private, write_atomically

#: No HTTP proxy is used, whatever the environment says.
NO_PROXY = "none"

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")

Mechanism = Literal["pin", "sign", "hmac", "spake2plus"]


class DialledEngine(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How to reach one engine, and how to know it.

    Attributes:
        url: where it takes agents.
        mechanism: how the agent and the engine prove who they are.
        server: how its HTTPS server is known: by the pin of its key, or by a certificate of
            an authority that the system trusts, which is `AUTHORITY`.
        proxy: the URL of an HTTP proxy, `NO_PROXY`, or None for what the environment says.
    """

    url: str
    mechanism: Mechanism
    server: str
    proxy: str | None = None

    def parsed_url(self) -> SplitResult:
        """Give the parts of the URL.

        Raises:
            InvalidEngineUrl: it is malformed.
        """
        return parse_engine_url(self.url)

    def server_pin(self) -> Pin | None:
        """Give the pin of the HTTPS server, or None where an authority vouches for it.

        Raises:
            InvalidKeyText: it is malformed.
        """
        return None if self.server == AUTHORITY else Pin.parse(self.server)

    def check(self) -> None:
        """Refuse what cannot be used.

        Raises:
            PkengineError: one of the texts is malformed.
        """
        self.parsed_url()
        self.server_pin()
        if self.proxy not in (None, NO_PROXY):
            HttpProxy.parse(self.proxy)


class DialledEngines:
    """The folder of the engines that are dialled.

    Args:
        directory: the folder; it is made with the first engine.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def changed_at(self) -> int:
        """Give what changes whenever an engine comes, changes or goes."""
        try:
            return self._directory.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def all(self) -> tuple[dict[str, DialledEngine], list[KeyFileError]]:
        """Give every engine by its name, and what is wrong with those that cannot be used."""
        engines: dict[str, DialledEngine] = {}
        errors: list[KeyFileError] = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                engines[path.stem] = _read(path)
            except KeyFileError as error:
                errors.append(error)
        return engines, errors

    def put(self, name: str, engine: DialledEngine) -> None:
        """Dial an engine from now on; what stood under its name is replaced.

        Raises:
            KeyFileError: it cannot be written, or its name is no name of a file.
        """
        path = self._path(name)
        make_private_directory(self._directory)
        encoded = msgspec.json.encode(engine)
        write_atomically(path, msgspec.json.format(encoded, indent=1) + b"\n")

    def remove(self, name: str) -> bool:
        """Dial an engine no longer; tell whether it was dialled."""
        if not _NAME.fullmatch(name):
            return False
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            return False
        return True

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise KeyFileError(
                f"The engine's name {name!r} cannot name a file: expected letters, digits, "
                "'.', '_' and '-'."
            )
        return self._directory / f"{name}.json"


def _read(path: Path) -> DialledEngine:
    try:
        engine = msgspec.json.decode(read_private(path), type=DialledEngine)
        engine.check()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path} does not describe an engine: {error}.") from error
    except KeyFileError:
        raise
    except PkengineError as error:
        raise KeyFileError(f"{path}: {error}") from error
    return engine
