"""The public name of a secret that two ends share."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from pkengine.errors import InvalidKeyText

_PREFIX = "kid//"
_FORM = re.compile(r"kid//([0-9a-f]{32})")


@dataclass(frozen=True, slots=True, order=True)
class KeyId:
    """Names a shared secret without telling anything about it: it is drawn at random.

    The one text form is ``kid//`` and 32 lower-case hexadecimal digits.

    Attributes:
        octets: bytes, 16 long.
    """

    octets: bytes

    def __post_init__(self) -> None:
        if len(self.octets) != 16:
            raise InvalidKeyText(f"A key id has 16 octets, this has {len(self.octets)}.")

    @classmethod
    def random(cls) -> KeyId:
        """Draw a new one."""
        return cls(secrets.token_bytes(16))

    @classmethod
    def parse(cls, text: str) -> KeyId:
        """Read the text form, and nothing but the text form.

        Raises:
            InvalidKeyText: it is anything else.
        """
        if not (match := _FORM.fullmatch(text)):
            raise InvalidKeyText(
                f"{text!r} is not a key id: expected 'kid//' and 32 lower-case hexadecimal digits."
            )
        return cls(bytes.fromhex(match[1]))

    def __str__(self) -> str:
        return _PREFIX + self.octets.hex()
