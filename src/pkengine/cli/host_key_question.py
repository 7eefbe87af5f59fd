"""Which key a host, or a machine on the way to it, must have: known, or asked about."""

from __future__ import annotations

from dataclasses import replace

from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.hosts import FoundKey, describe_key, fetch_host_keys
from pkengine.cli.rest_client import RestClient
from pkengine.cli.terminal import ask, is_interactive, tell
from pkengine.cli.ways import Way
from pkengine.errors import InvalidKeyText
from pkengine.keys import SshFingerprint

UNKNOWN = (
    "Say which key the host must have, with --fingerprint or --ssh-public-key; "
    "'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub' prints it on the host. "
    "--trust-on-first-use accepts any."
)
_UNKNOWN_JUMP = (
    "Say which key the jump host {jump} must have, with --jump-fingerprint, or let the engine "
    "know it by 'pkengine known-hosts import'. --trust-on-first-use accepts any."
)


async def confirm_way(client: RestClient, way: Way) -> Way:
    """Let a person accept the keys of the machines on a way that the engine does not know.

    Raises:
        CommandFailed: they are wrong, not accepted, or nobody can be asked.
    """
    confirmed: Way = ()
    for jump in way:
        if jump.fingerprint is None:
            at = jump.host
            unknown = _UNKNOWN_JUMP.format(jump=at)
            fingerprint = await confirm_host_key(
                client, at.address, at.port, confirmed, what="jump host", unknown=unknown
            )
            jump = replace(jump, fingerprint=fingerprint)
        confirmed = (*confirmed, jump)
    return confirmed


async def confirm_host_key(
    client: RestClient,
    address: str,
    port: int,
    way: Way,
    *,
    what: str = "host",
    unknown: str = UNKNOWN,
) -> SshFingerprint | None:
    """Show a person a host's keys; give the fingerprint of the one that they accept.

    Args:
        client: asks the engine.
        address: of the host.
        port: of its SSH server.
        way: the machines on the way, whose keys are known or given.
        what: it is, in words.
        unknown: what to do where nobody can be asked.

    Returns:
        None where the engine knows the key: nobody needs to be asked.

    Raises:
        CommandFailed: no key is accepted, or nobody can be asked.
    """
    found = await fetch_host_keys(client, address, port, way)
    keys = [each.key for each in found if each.standing != "revoked"]
    if not keys:
        shown = "only keys that are revoked" if found else "no host key"
        raise CommandFailed(
            f"The SSH server at {address}:{port} shows {shown}.", ExitStatus.REFUSED
        )
    for each in found:
        if each.standing == "known":
            tell(f"The key of {what} '{address}' (port {port}) is known: {_told(each)}.")
            return None
    if any(each.standing == "mismatch" for each in found):
        raise CommandFailed(
            f"The engine knows another SSH key for {what} '{address}' (port {port}) than it "
            f"shows: found {', '.join(map(_told, found))}. See 'pkengine known-hosts list'. Give "
            "the right fingerprint if you have read it on the console.",
            ExitStatus.REFUSED,
        )
    if not is_interactive():
        raise CommandFailed(unknown, ExitStatus.USAGE)
    tell(f"The authenticity of {what} '{address}' (port {port}) can't be established.")
    for key in keys:
        tell(f"{describe_key(key)} key fingerprint is {key.fingerprint()}.")
    while True:
        answer = ask(f"{_QUESTIONS[what]} (yes/no/[fingerprint])").strip()
        if answer.lower() == "no":
            raise CommandFailed("The host was not added.", ExitStatus.REFUSED)
        if answer.lower() == "yes":
            return keys[0].fingerprint()
        try:
            pasted = SshFingerprint.parse(answer)
        except InvalidKeyText:
            tell("Please type 'yes', 'no' or the fingerprint.")
            continue
        if any(pasted.matches(key) for key in keys):
            return pasted
        raise CommandFailed(
            f"None of the keys of the {what} has the fingerprint {pasted}: it was not added.",
            ExitStatus.REFUSED,
        )


_QUESTIONS = {"host": "Add this host", "jump host": "Go through this jump host"}


def _told(found: FoundKey) -> str:
    by = f", by {found.source.replace('_', ' ')}" if found.source else ""
    return f"{describe_key(found.key)} {found.key.fingerprint()}{by}"
