"""Values that must never be shown."""

from __future__ import annotations

import contextlib
import hmac
from typing import NoReturn

from pkengine.errors import InvalidKeyText


class Secret:
    """Secret octets that do not show in a repr, a log line, a traceback or a pickle.

    Args:
        value: the octets; text is encoded as UTF-8.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes | str) -> None:
        self._value = value.encode("utf-8") if isinstance(value, str) else bytes(value)

    def reveal(self) -> bytes:
        """Give the octets, at the one place that needs them."""
        return self._value

    def reveal_text(self) -> str:
        """Give the octets as UTF-8 text.

        Raises:
            InvalidKeyText: they are none.
        """
        with contextlib.suppress(UnicodeDecodeError):
            return self._value.decode("utf-8")
        # Raised here and not within: a UnicodeDecodeError holds the octets.
        raise InvalidKeyText("A secret that must be text is not UTF-8.")

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        """Compare in time that does not depend on the content."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a hash would leak, and nothing needs one

    def __repr__(self) -> str:
        return "Secret(<hidden>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A Secret cannot be pickled or copied out of the process.")
