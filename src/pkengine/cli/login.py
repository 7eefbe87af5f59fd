"""Where the engine is, who logs in to it, and what its certificate is verified against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.keys.secret import Secret

DEFAULT_URL = "https://localhost:8443/ovirt-engine/api"
DEFAULT_USER = "admin@internal"


@dataclass(frozen=True, slots=True)
class Login:
    """How to reach one engine.

    Attributes:
        origin: scheme, host and port, such as ``https://engine.example:8443``.
        user: such as ``admin@internal``.
        password: asked for once, at the first request that needs it.
        ca_file: PEM certificates to verify the engine against; None means those that the
            operating system trusts.  The engine's own self-signed certificate will do.
    """

    origin: str
    user: str
    password: Callable[[], Secret]
    ca_file: Path | None

    @property
    def api(self) -> str:
        """The root of the REST API."""
        return f"{self.origin}/ovirt-engine/api"


def resolve_login(
    *,
    url: str | None,
    user: str | None,
    password_file: str | None,
    ca_file: str | None,
    state: str | None,
    environ: Mapping[str, str],
    ask_password: Callable[[str], str] | None,
) -> Login:
    """Put a login together: options first, then the environment, then a state folder.

    A state folder is that of an engine on this machine: it knows the engine's URL, its
    certificate and its first password.  `ask_password` prompts a person with a text, and is
    None where nobody is there.

    Raises:
        CommandFailed: the URL is unusable or a file cannot be read.
    """
    folder = state or environ.get("PKENGINE_STATE")
    directory = Path(folder) if folder else None
    url = url or environ.get("PKENGINE_URL")
    user = user or environ.get("PKENGINE_USER") or DEFAULT_USER
    ca_text = ca_file or environ.get("PKENGINE_CA_FILE")
    if directory is not None:
        url = url or _read_text(directory / "https.url")
        ca_text = ca_text or str(directory / "https.crt")
    origin = _origin(url or DEFAULT_URL)

    def password() -> Secret:
        if password_file:
            return read_password(password_file)
        if "PKENGINE_PASSWORD" in environ:
            return Secret(environ["PKENGINE_PASSWORD"])
        if environ.get("PKENGINE_PASSWORD_FILE"):
            return read_password(environ["PKENGINE_PASSWORD_FILE"])
        if directory is not None and user == DEFAULT_USER:
            return read_password(str(directory / "initial-admin-password"))
        if ask_password is None:
            raise CommandFailed(
                f"No password for {user} was given: use --password-file, or set "
                "PKENGINE_PASSWORD.",
                ExitStatus.NOT_AUTHORIZED,
            )
        return Secret(ask_password(f"Password of {user} at {origin}"))

    return Login(origin, user, password, Path(ca_text) if ca_text else None)


def read_password(path: str) -> Secret:
    """Read the first line of a file, or of standard input where the path is ``-``.

    Raises:
        CommandFailed: it cannot be read, or the line is empty.
    """
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as stream:
            line = stream.readline().rstrip(b"\r\n")
    except OSError as error:
        raise CommandFailed(
            f"Cannot read a password from {path}: {error.strerror}.", ExitStatus.USAGE
        ) from error
    if not line:
        name = "standard input" if path == "-" else path
        raise CommandFailed(f"The first line of {name} holds no password.", ExitStatus.USAGE)
    return Secret(line)


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError as error:
        raise CommandFailed(
            f"Cannot read {path}: {error.strerror}. Is {path.parent} the state folder of an "
            "engine that was started?",
            ExitStatus.USAGE,
        ) from error


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme == "https" and bool(parts.hostname) and parts.username is None
        _ = parts.port  # raises where it is no port
    except ValueError:
        valid = False
    if not valid:
        raise CommandFailed(
            f"{url!r} is not the URL of an engine: expected one such as "
            "'https://engine.example/ovirt-engine/api'.",
            ExitStatus.USAGE,
        )
    return f"https://{parts.netloc}"
