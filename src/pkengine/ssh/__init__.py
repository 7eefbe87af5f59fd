"""Reach a host by SSH: judge its key, log in, run commands, upload."""

from pkengine.ssh.client import connect_again, connect_ssh, fetch_host_keys, judge_host_key
from pkengine.ssh.connection import SshConnection
from pkengine.ssh.host_key_rotation import HostKeyUpdate
from pkengine.ssh.host_keys import HostKeyJudgement, HostKeyPolicy
from pkengine.ssh.identity import SshIdentity, SshKeyKind, SshKeyRing
from pkengine.ssh.key_agent import KeyAgent, connect_key_agent
from pkengine.ssh.known_hosts import KnownHosts
from pkengine.ssh.reach import SshTarget
from pkengine.ssh.session import CommandResult
from pkengine.ssh.userauth import SshCredentials

__all__ = [
    "CommandResult",
    "HostKeyJudgement",
    "HostKeyPolicy",
    "HostKeyUpdate",
    "KeyAgent",
    "KnownHosts",
    "SshConnection",
    "SshCredentials",
    "SshIdentity",
    "SshKeyKind",
    "SshKeyRing",
    "SshTarget",
    "connect_again",
    "connect_key_agent",
    "connect_ssh",
    "fetch_host_keys",
    "judge_host_key",
]
