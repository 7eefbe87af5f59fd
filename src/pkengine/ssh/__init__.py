"""Reach a host by SSH: judge its key, log in, run commands, upload."""

from pkengine.ssh.client import SshConnection, SshTarget, connect_ssh, fetch_host_keys
from pkengine.ssh.host_keys import HostKeyJudgement, HostKeyPolicy
from pkengine.ssh.identity import SshIdentity
from pkengine.ssh.session import CommandResult
from pkengine.ssh.userauth import SshCredentials

__all__ = [
    "CommandResult",
    "HostKeyJudgement",
    "HostKeyPolicy",
    "SshConnection",
    "SshCredentials",
    "SshIdentity",
    "SshTarget",
    "connect_ssh",
    "fetch_host_keys",
]
