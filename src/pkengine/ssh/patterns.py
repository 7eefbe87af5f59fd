"""OpenSSH's patterns for names (ssh_config(5), "PATTERNS")."""

from __future__ import annotations

import fnmatch
import re


def matches_pattern(pattern: str, name: str) -> bool:
    """Compare with a pattern of OpenSSH's: ``*`` and ``?``, and nothing else, stand for others."""
    literal = pattern.lower().replace("[", "[[]")
    return re.fullmatch(fnmatch.translate(literal), name.lower()) is not None
