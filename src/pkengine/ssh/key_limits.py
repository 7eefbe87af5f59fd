"""The options that limit what the engine's key may do on a host, as an operator writes them.

They stand in front of the key in ``authorized_keys`` (sshd(8)).  What sshd would not understand is
refused here, because sshd itself would not say so: it would just not let the key in.
"""

from __future__ import annotations

import datetime
import ipaddress
import re

from pkengine.errors import InvalidKeyLimits
from pkengine.ssh.authorized_keys import OPTION

#: Options without a value.  Those of FIDO's keys, and ``cert-authority``, make no sense here.
_FLAGS = frozenset(
    name
    for stem in ("agent-forwarding", "port-forwarding", "pty", "user-rc", "x11-forwarding")
    for name in (stem, f"no-{stem}")
) | {"restrict"}
_REFUSED = {
    "command": "the engine could run nothing but that command",
    "cert-authority": "it makes an authority of the key",
    "principals": "it goes with cert-authority only",
    "no-touch-required": "it is for keys of FIDO tokens only",
    "verify-required": "it is for keys of FIDO tokens only",
}
_PATTERN = re.compile(r"!?[A-Za-z0-9:./*?\[\]_%-]+")
_NUMBER = r"[0-9]{1,5}"
_VALUES = {
    "environment": (re.compile(r"[A-Za-z_][A-Za-z0-9_]*=[^\"]*"), "NAME=VALUE"),
    "permitlisten": (re.compile(rf"(?:[^\s:\"]+:)?(?:{_NUMBER}|\*)"), "[HOST:]PORT"),
    "permitopen": (re.compile(rf"(?:\[[0-9A-Fa-f:]+\]|[^\s:\"]+):(?:{_NUMBER}|\*)"), "HOST:PORT"),
    "tunnel": (re.compile(r"[0-9]{1,9}|any"), "the number of a device"),
}
_ONCE = frozenset({"from", "tunnel"})
_EXPIRY = re.compile(r"([0-9]{8})([0-9]{4}(?:[0-9]{2})?)?Z?")


def parse_limits(text: str) -> tuple[str, ...]:
    """Read options, such as ``from="192.0.2.0/24",restrict``.

    The engine runs commands and sends them input; it needs no terminal and no forwarding, so
    ``restrict`` leaves it all that it needs.  Only a host through which others are reached needs
    ``port-forwarding`` besides.

    Raises:
        InvalidKeyLimits: sshd would not understand them, or the engine could not work with them.
    """
    options: list[str] = []
    names: set[str] = set()
    rest = text.strip()
    while rest:
        match = OPTION.match(rest)
        end = match.end() if match else 0
        if match is None or rest[end : end + 1] not in ("", ","):
            raise InvalidKeyLimits(
                f"{rest[:60]!r} is no option of authorized_keys: expected options such as "
                'from="192.0.2.0/24",restrict, with commas and no blanks between them.'
            )
        _check(match[1], match[2])
        if match[1].lower() in _ONCE & names:
            raise InvalidKeyLimits(f"The option {match[1]!r} is there twice: sshd takes it once.")
        names.add(match[1].lower())
        options.append(match[0])
        rest = rest[end + 1 :]
        if not rest and text.rstrip().endswith(","):
            raise InvalidKeyLimits(f"An option is missing behind the last comma of {text!r}.")
    return tuple(options)


def _check(name: str, value: str | None) -> None:
    lower = name.lower()
    if lower in _REFUSED:
        raise InvalidKeyLimits(
            f"The option {name!r} cannot stand before the engine's key, because "
            f"{_REFUSED[lower]}: leave it out."
        )
    takes_value = lower in _VALUES or lower in ("from", "expiry-time")
    if lower not in _FLAGS and not takes_value:
        raise InvalidKeyLimits(f"sshd knows no option {name!r} in authorized_keys (see sshd(8)).")
    if takes_value == (value is None):
        expected = f'{lower}="…"' if takes_value else lower
        raise InvalidKeyLimits(f"The option {name!r} is malformed: expected {expected}.")
    if value is None:
        return
    if not value.isprintable():
        raise InvalidKeyLimits(f"The value of {name!r} has control characters in it.")
    if lower == "from":
        _check_patterns(value)
    elif lower == "expiry-time":
        _check_expiry(value)
    elif not _VALUES[lower][0].fullmatch(value):
        raise InvalidKeyLimits(
            f'{name}="{value}" is malformed: expected {name}="{_VALUES[lower][1]}".'
        )


def _check_patterns(value: str) -> None:
    """Check a pattern list: sshd lets nobody in by one in which a network is malformed."""
    patterns = value.split(",")
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise InvalidKeyLimits(
                f"{pattern!r} cannot stand in 'from=': expected an address, a network such as "
                "10.0.0.0/8, or a name in which * and ? stand for others."
            )
        if "/" in pattern:
            try:
                ipaddress.ip_network(pattern.removeprefix("!"))
            except ValueError as error:
                raise InvalidKeyLimits(
                    f"{pattern!r} in 'from=' is no network that sshd understands: {error}."
                ) from None
    if all(pattern.startswith("!") for pattern in patterns):
        raise InvalidKeyLimits(
            f'from="{value}" lets nobody in: after what is excluded, add who is let in, such as *.'
        )


def _check_expiry(value: str) -> None:
    match = _EXPIRY.fullmatch(value)
    try:
        if match is None:
            raise ValueError
        time = (match[2] or "").ljust(6, "0")
        datetime.datetime.strptime(match[1] + time, "%Y%m%d%H%M%S")
    except ValueError:
        raise InvalidKeyLimits(
            f'expiry-time="{value}" is malformed: expected YYYYMMDD, YYYYMMDDHHMM or '
            "YYYYMMDDHHMMSS, and Z behind it for UTC."
        ) from None
