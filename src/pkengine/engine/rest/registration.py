"""Hosts that register themselves: ``/ovirt-engine/services/host-register``, without login.

Anybody can send this.  It makes a host that waits for approval, and nothing that it says is
believed or connected to before an administrator approves it.
"""

from __future__ import annotations

from collections.abc import Mapping

from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.server import Request

from pkengine.engine.hosts.service import Hosts
from pkengine.engine.model import NewHost, Origin, SshLogin
from pkengine.engine.rate_limit import RateLimit
from pkengine.engine.rest.application import refuse
from pkengine.engine.rest.pki import PublicKeys
from pkengine.engine.rest.request import (
    client_address,
    correlation_id,
    query,
    refuse_anything_of_other_sites,
)
from pkengine.engine.rest.response import send_body
from pkengine.engine.rest.schema import LINE, PORT, IncompleteParameters, decode
from pkengine.errors import BadRequest, Conflict
from pkengine.keys import SshFingerprint
from pkengine.listening import AGENT_PORT

_VERSION = "1"

#: So often one address may register hosts at once, and then once more in so many seconds.
BURST = 20
PAUSE_S = 10.0


class HostRegistration:
    """Takes registrations, in the parameters of oVirt's version 1.

    Args:
        hosts: get another one.
        public_keys: what a host may fetch before it registers.
        clock: what time it is.
    """

    def __init__(self, hosts: Hosts, public_keys: PublicKeys, clock: IReactorTime) -> None:
        self._hosts = hosts
        self._public_keys = public_keys
        self._limit = RateLimit(clock, burst=BURST, pause_s=PAUSE_S)

    def add_to(self, services: Klein) -> None:
        """Add the route."""
        services.route("/host-register", methods=["GET"])(self._serve)

    async def _serve(self, request: Request) -> None:
        try:
            refuse_anything_of_other_sites(request)
            wanted = query(request)
            origin = Origin(
                address=client_address(request), correlation_id=correlation_id(request, wanted)
            )
            content_type, body = await self._answer(wanted, origin)
        except CancelledError:
            raise
        except Conflict:
            # Who is not logged in is not told which hosts there are.
            error = BadRequest("The host cannot be registered: ask an administrator.")
            refuse(request, Failure(error))
        except Exception as error:
            refuse(request, Failure(error))
        else:
            send_body(request, content_type, body)

    async def _answer(self, wanted: Mapping[str, str], origin: Origin) -> tuple[str, bytes]:
        if wanted.get("version") != _VERSION:
            raise BadRequest(f"Unknown version {wanted.get('version', '')[:20]!r}: expected '1'.")
        command = wanted.get("command")
        if command == "get-version":
            return "text/plain", f"{_VERSION}\n".encode()
        if command == "get-pki-trust":
            return "application/x-x509-ca-cert", self._public_keys.https_certificate
        if command == "get-ssh-trust":
            return "text/plain", self._public_keys.ssh_key_line()
        if command == "register":
            self._limit.take(origin.address)
            await self._hosts.admission.register(_new_host(wanted), origin)
            return "text/plain", b"OK\n"
        raise BadRequest(
            f"Unknown command {(command or '')[:40]!r}: expected 'get-version', 'get-pki-trust', "
            "'get-ssh-trust' or 'register'."
        )


def _new_host(wanted: Mapping[str, str]) -> NewHost:
    missing = [name for name in ("address", "uniqueId") if not wanted.get(name)]
    if missing:
        raise IncompleteParameters(f"Host [{', '.join(missing)}] required for register.")
    address = wanted["address"]
    fingerprint = wanted.get("sshKeyFingerprint", "")
    unique_id = decode(LINE, wanted["uniqueId"], "uniqueId")
    return NewHost(
        name=decode(LINE, wanted.get("name") or address, "name"),
        address=address,
        port=decode(PORT, wanted.get("vdsPort") or str(AGENT_PORT), "vdsPort"),
        comment=f"Says of itself to be {unique_id}.",
        ssh=SshLogin(
            port=decode(PORT, wanted.get("sshPort") or "22", "sshPort"),
            user=decode(LINE, wanted.get("sshUser") or "root", "sshUser"),
            fingerprint=SshFingerprint.parse(fingerprint) if fingerprint else None,
        ),
    )
