"""The folder in which an agent keeps what must outlive it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

from pkengine.agent.identity import host_uuid
from pkengine.errors import AgentError, KeyFileError
from pkengine.keys import KeyPair
from pkengine.keys.files import create_atomically, make_private_directory

DEFAULT_DIRECTORY = Path("/var/lib/pkagent")

_KEY_NAME = "agent"
_AUTHORIZED_ENGINES_HEADER = b"""\
# The engines whose keys this agent accepts, one on each line:
#   sha256//BASE64 name=NAME [expires=YYYY-MM-DDTHH:MM:SSZ] [# comment]
# A change takes effect at once; a key that is removed loses its connections.
"""


def default_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Give the state folder where none is named: ``PKAGENT_STATE``, else the usual one."""
    return Path(environment.get("PKAGENT_STATE") or DEFAULT_DIRECTORY)


class StateFolder:
    """Names and makes what is in the state folder of one agent.

    Attributes:
        directory: the folder; only its owner may enter it.
        authorized_engines: the trust file.
        dialled_engines: the folder of the engines that the agent dials.
        secrets: the folder of what it shares with engines.
        control_socket: the UNIX socket of a running agent.
        host_uuid_file: the host's UUID, where the machine itself has none.
        lock_file: locked by the agent that runs with this folder.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.authorized_engines = self.directory / "authorized_engines"
        self.dialled_engines = self.directory / "engines.d"
        self.secrets = self.directory / "secrets"
        self.control_socket = self.directory / "control.sock"
        self.host_uuid_file = self.directory / "host-uuid"
        self.lock_file = self.directory / "control.lock"

    def prepare(self) -> KeyPair:
        """Make what is missing, and nothing else; give the agent's key pair.

        Raises:
            KeyFileError: something cannot be made, is broken, or is open to other users.
        """
        make_private_directory(self.directory)
        key_pair = KeyPair.load_or_create(self.directory, _KEY_NAME)
        if not self.authorized_engines.exists():
            create_atomically(self.authorized_engines, _AUTHORIZED_ENGINES_HEADER)
        return key_pair

    def key_pair(self) -> KeyPair:
        """Give the agent's key pair, which must be there.

        Raises:
            KeyFileError: it is not there, is broken, or is open to other users.
        """
        return KeyPair.load(self.directory, _KEY_NAME)

    def host_uuid(self) -> str:
        """Give the UUID of this host.

        Raises:
            KeyFileError: a UUID that was kept here cannot be read, or a new one not kept.
        """
        return host_uuid(self.host_uuid_file)

    def lock(self) -> int:
        """Keep other agents from this folder for as long as this process lives.

        Returns:
            The file descriptor that holds the lock.

        Raises:
            AgentError: another agent has it.
            KeyFileError: the lock file cannot be opened.
        """
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise KeyFileError(f"Cannot open {self.lock_file}: {error.strerror}.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise AgentError(
                f"Another agent runs with the state folder {self.directory}: stop that one "
                "first, or give this one a folder of its own with --state."
            ) from error
        return descriptor
