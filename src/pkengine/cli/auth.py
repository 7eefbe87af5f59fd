"""``pkengine-auth``: make and show what the authenticators need.

It works on trust folders and needs nothing but the authenticators, so it is there for every
program that embeds them.
"""

from __future__ import annotations

import argparse
import datetime
import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pkengine import __version__
from pkengine.auth import pake
from pkengine.auth.folder import TrustFolder
from pkengine.auth.peer import TrustedPeer, parse_peer_key
from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS, SharedKey
from pkengine.auth.trust import format_trust_line, parse_trust_line
from pkengine.errors import InvalidKeyText, KeyFileError, PkengineError
from pkengine.keys.files import create_atomically, read_private
from pkengine.keys.keypair import KeyType
from pkengine.keys.secret import Secret

OK, FAILED = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; give the exit status: 0 done, 1 failed, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except PkengineError as error:
        print(f"pkengine-auth: {error}", file=sys.stderr)
        return FAILED
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pkengine-auth", description="Make and show keys, trust and shared secrets."
    )
    parser.add_argument("--version", action="version", version=f"pkengine {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    keygen = _command(commands, "keygen", _keygen, "make this end's key pair, print its pin")
    keygen.add_argument(
        "--type",
        choices=[key_type.value for key_type in KeyType],
        default=KeyType.P256.value,
        help="the kind of key (default: %(default)s)",
    )
    pin = _command(commands, "pin", _pin, "print the pin of this end's key")
    pin.add_argument("--line", metavar="NAME", help="print the trust line for a peer's folder")

    trust = commands.add_parser("trust", help="list, add or remove peers").add_subparsers(
        required=True, metavar="ACTION"
    )
    _command(trust, "list", _trust_list, "print a line for each key that is trusted now")
    add = _command(trust, "add", _trust_add, "trust a key; a line with the same key is replaced")
    add.add_argument("line", metavar="LINE", nargs="+", help="a trust line: KEY name=NAME …")
    remove = _command(trust, "remove", _trust_remove, "trust a key no longer")
    remove.add_argument("key", metavar="KEY", help="a pin or a key id")

    secret = commands.add_parser("secret", help="make or take over a shared secret")
    secret_actions = secret.add_subparsers(required=True, metavar="ACTION")
    new = _command(
        secret_actions, "new", _secret_new, "make a secret, trust it, write the peer's half"
    )
    new.add_argument("--local", required=True, metavar="NAME", help="who this end is")
    new.add_argument("--peer", required=True, metavar="NAME", help="who the other end is")
    new.add_argument("--mechanism", choices=SHARED_KEY_MECHANISMS, default="hmac")
    new.add_argument(
        "--dials",
        choices=["local", "peer"],
        default="peer",
        help="for spake2plus: which end dials, and so proves the secret (default: peer)",
    )
    new.add_argument(
        "--code",
        action="store_true",
        help="for spake2plus: ask for the secret, in place of drawing one at random",
    )
    new.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="where the peer's half goes"
    )
    take = _command(
        secret_actions, "import", _secret_import, "take over this end's half, trust it"
    )
    take.add_argument("file", type=Path, metavar="FILE")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: object,
    help: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="the trust folder")
    command.set_defaults(run=run)
    return command


def _keygen(options: argparse.Namespace) -> None:
    print(TrustFolder(options.folder).make_identity(KeyType(options.type)).pin)


def _pin(options: argparse.Namespace) -> None:
    pin = TrustFolder(options.folder).key_pair.pin
    print(format_trust_line(TrustedPeer(options.line, pin)) if options.line else pin)


def _trust_list(options: argparse.Namespace) -> None:
    for peer in TrustFolder(options.folder).trust.peers():
        print(format_trust_line(peer))


def _trust_add(options: argparse.Namespace) -> None:
    peer = parse_trust_line(" ".join(options.line))
    if peer is None:
        raise InvalidKeyText("The line is empty: expected KEY name=NAME.")
    now = datetime.datetime.now(datetime.timezone.utc)
    if peer.expires is not None and peer.expires <= now:
        raise InvalidKeyText(f"The line expires at {peer.expires}, which has passed.")
    TrustFolder(options.folder).trust.add(peer)


def _trust_remove(options: argparse.Namespace) -> None:
    key = parse_peer_key(options.key)
    folder = TrustFolder(options.folder)
    try:
        folder.trust.remove(key)
    except KeyError:
        raise InvalidKeyText(
            f"{key} is not in {folder.directory / 'peers'}: nothing was removed."
        ) from None


def _secret_new(options: argparse.Namespace) -> None:
    ours, theirs = _make_secret(options)
    folder = TrustFolder(options.folder)
    trust, secrets = folder.trust, folder.secrets  # both are readable before anything is made
    if not create_atomically(options.out, theirs.encode()):
        raise KeyFileError(f"{options.out} exists: name a file that does not, nothing was made.")
    secrets.add(ours)
    trust.add(TrustedPeer(ours.peer, ours.key_id, frozenset({ours.mechanism})))
    print(ours.key_id)
    print(
        f"Move {options.out} to {ours.peer} by a safe way and run there:\n"
        f"  pkengine-auth secret import FOLDER {options.out.name}",
        file=sys.stderr,
    )


def _make_secret(options: argparse.Namespace) -> tuple[SharedKey, SharedKey]:
    """Make this end's half and the peer's."""
    if options.mechanism == "hmac":
        key = SharedKey.generate("hmac", local=options.local, peer=options.peer)
        return key, key.for_peer()
    if options.code:
        secret = Secret(getpass.getpass("Secret: ") if sys.stdin.isatty() else input())
        if not secret:
            raise InvalidKeyText("The secret is empty.")
    else:
        secret = Secret(os.urandom(32))
    if options.dials == "local":
        return pake.register_pair(secret, prover=options.local, verifier=options.peer)
    theirs, ours = pake.register_pair(secret, prover=options.peer, verifier=options.local)
    return ours, theirs


def _secret_import(options: argparse.Namespace) -> None:
    folder = TrustFolder(options.folder)
    try:
        key = SharedKey.decode(read_private(options.file))
    except InvalidKeyText as error:
        raise KeyFileError(f"{options.file}: {error}") from None
    trust, secrets = folder.trust, folder.secrets
    secrets.add(key)
    trust.add(TrustedPeer(key.peer, key.key_id, frozenset({key.mechanism})))
    print(key.key_id)


if __name__ == "__main__":
    sys.exit(main())
