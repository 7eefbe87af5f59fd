"""The systemd unit of the agent.

The agent runs as root, because it is there to manage the host, but with as little of root's
power as what it does today needs: it reads the machine's facts, and writes nothing but its
own state.
"""

from __future__ import annotations

UNIT_NAME = "pkagent.service"

_UNIT = """\
[Unit]
Description=pkengine agent
Documentation=man:systemd.exec(5)
Wants=network-online.target
After=network-online.target
# A port that is taken now may be free later: never give up.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command} --nodaemon --pidfile= pkagent --state {state} \\
    --listen {port} --listen-on-demand
Restart=on-failure
RestartSec=2s
TimeoutStartSec=30s
TimeoutStopSec=15s
WatchdogSec=30s

StateDirectory={state_name}
StateDirectoryMode=0700
WorkingDirectory={state}
UMask=0077
MemoryMax=256M
TasksMax=64

NoNewPrivileges=yes
CapabilityBoundingSet={capabilities}
ProtectSystem=strict
ReadWritePaths={state}
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""
_STATE_PARENT = "/var/lib/"


def systemd_unit(*, command: str, state: str, port: int) -> str:
    """Give the text of the unit.

    Args:
        command: the absolute path of the installed ``twistd``.
        state: the agent's state folder, directly below ``/var/lib``.
        port: where the agent listens while an engine has to reach it.
    """
    assert state.startswith(_STATE_PARENT), state
    return _UNIT.format(
        command=command,
        state=state,
        state_name=state.removeprefix(_STATE_PARENT),
        port=port,
        # A port below 1024 is the one thing here that root needs a capability for.
        capabilities="CAP_NET_BIND_SERVICE" if port < 1024 else "",
    )
