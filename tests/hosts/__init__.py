"""Real test hosts: each with a kernel's view of its own, an address, users and an sshd."""

from tests.hosts.farm import Farm, open_farm
from tests.hosts.host import Host, HostSetupError
from tests.hosts.processes import CommandFailed

__all__ = ["CommandFailed", "Farm", "Host", "HostSetupError", "open_farm"]
