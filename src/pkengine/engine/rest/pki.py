"""The engine's public keys, for everybody: ``/ovirt-engine/services/pki-resource``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from klein import Klein
from twisted.python.failure import Failure
from twisted.web.server import Request

from pkengine.engine.rest.application import refuse
from pkengine.engine.rest.request import query
from pkengine.engine.rest.response import send_body
from pkengine.errors import BadRequest
from pkengine.keys import SshPublicKey

#: The name behind the SSH key where the client gives none.
DEFAULT_ALIAS = "ovirt-engine"

_PEM = "application/x-x509-cert"
_PEM_CA = "application/x-x509-ca-cert"


class PublicKeys:
    """Gives the engine's SSH public key and certificates in oVirt's formats.

    There is no certification authority: ``ca-certificate`` is the self-signed certificate
    of the HTTPS listener, so that who downloads and checks it can verify the engine.

    Args:
        ssh_key: gives what the engine logs in to hosts with.
        engine_certificate: what agents know the engine by, in PEM.
        https_certificate: what clients of the API see, in PEM.
    """

    def __init__(
        self,
        ssh_key: Callable[[], SshPublicKey],
        engine_certificate: bytes,
        https_certificate: bytes,
    ) -> None:
        self._ssh_key = ssh_key
        self._certificates = {
            "engine-certificate": engine_certificate,
            "ca-certificate": https_certificate,
        }

    def add_to(self, services: Klein) -> None:
        """Add the route."""
        services.route("/pki-resource", methods=["GET"])(self._get)

    @property
    def https_certificate(self) -> bytes:
        """What clients of the API see, in PEM."""
        return self._certificates["ca-certificate"]

    def ssh_key_line(self, alias: str = DEFAULT_ALIAS) -> bytes:
        """Give a line for ``authorized_keys``, which the alias cannot break.

        Raises:
            BadRequest: the alias could.
        """
        if not alias.isprintable() or len(alias) > 100:
            raise BadRequest("The alias has to be at most 100 printable characters.")
        return f"{self._ssh_key()} {alias}".rstrip().encode() + b"\n"

    def _get(self, request: Request) -> None:
        try:
            content_type, body = self._find(query(request))
        except BadRequest as error:
            refuse(request, Failure(error))
        else:
            send_body(request, content_type, body)

    def _find(self, wanted: Mapping[str, str]) -> tuple[str, bytes]:
        resource = wanted.get("resource", "")
        certificate = self._certificates.get(resource)
        if certificate is None:
            names = ", ".join(self._certificates)
            raise BadRequest(f"Unknown resource {resource[:60]!r}: expected one of {names}.")
        content_type = {"X509-PEM": _PEM, "X509-PEM-CA": _PEM_CA}.get(
            kind := wanted.get("format", "X509-PEM")
        )
        if content_type is not None:
            return content_type, certificate
        if kind == "OPENSSH-PUBKEY" and resource == "engine-certificate":
            return "text/plain", self.ssh_key_line(wanted.get("alias", DEFAULT_ALIAS))
        raise BadRequest(
            f"Unknown format {kind[:60]!r} for {resource}: expected X509-PEM, X509-PEM-CA, or "
            "OPENSSH-PUBKEY for engine-certificate."
        )
