"""What is to be thought of the SSH keys that a host shows, before it is added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pkengine.engine.model import KeyStanding, RowJudgement, ShownKey
from pkengine.keys import SshFingerprint, SshPublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was expected, what was found, and what that means.

    Attributes:
        found: the key that would be trusted, or all that were found where none matches.
        detail: why, where that needs a sentence.
    """

    judgement: RowJudgement
    expected: SshFingerprint | SshPublicKey | None
    found: tuple[SshPublicKey, ...]
    detail: str = ""


def judge(expected: SshFingerprint | SshPublicKey | None, shown: Sequence[ShownKey]) -> Verdict:
    """Compare what a host shows with what is expected of it, by a request or by the engine."""
    keys = tuple(each.key for each in shown if each.standing is not KeyStanding.REVOKED)
    if not keys and shown:
        return Verdict(
            judgement=RowJudgement.MISMATCH,
            expected=expected,
            found=tuple(each.key for each in shown),
            detail="What it shows is revoked.",
        )
    if expected is None:
        return _by_what_is_known(shown, keys)
    match: tuple[SshPublicKey, ...]
    otherwise = RowJudgement.MISMATCH
    if isinstance(expected, SshPublicKey):
        match = tuple(key for key in keys if key == expected)
        if all(key.key_type != expected.key_type for key in keys):
            otherwise = RowJudgement.OTHER_TYPE
    else:
        match = tuple(key for key in keys if expected.matches(key))
    return Verdict(
        judgement=RowJudgement.MATCH if match else otherwise,
        expected=expected,
        found=match or keys,
    )


def _by_what_is_known(shown: Sequence[ShownKey], keys: tuple[SshPublicKey, ...]) -> Verdict:
    for each in shown:
        if each.standing is KeyStanding.KNOWN:
            source = each.source.value.replace("_", " ") if each.source else "the engine"
            return Verdict(
                judgement=RowJudgement.MATCH,
                expected=each.key,
                found=(each.key,),
                detail=f"Known by {source}.",
            )
    if not keys or any(each.standing is KeyStanding.MISMATCH for each in shown):
        return Verdict(
            judgement=RowJudgement.MISMATCH,
            expected=None,
            found=keys,
            detail="The engine knows another key for this address." if keys else "",
        )
    return Verdict(judgement=RowJudgement.FIRST_USE, expected=None, found=keys[:1])
