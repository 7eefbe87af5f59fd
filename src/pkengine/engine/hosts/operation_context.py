"""What the operations on hosts share."""

from __future__ import annotations

from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorTime

from pkengine.engine.clusters import Clusters
from pkengine.engine.events import Events
from pkengine.engine.hosts.access import HostAccess
from pkengine.engine.hosts.agent_ways import AgentWays
from pkengine.engine.hosts.announcements import Announcements
from pkengine.engine.hosts.monitor import Monitor
from pkengine.engine.hosts.registry import HostRegistry
from pkengine.engine.hosts.ssh_ways import SshWays
from pkengine.engine.hosts.turns import Turns
from pkengine.engine.jobs import Jobs
from pkengine.engine.tasks import Tasks
from pkengine.keys import Pin


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationContext:
    """The parts of the engine that operations on its hosts work with; one for all of them.

    Attributes:
        registry: the hosts on disk.
        clusters, events, jobs: the rest of what is on disk.
        access: the network.
        ways: lead to hosts by SSH.
        monitor: follows the registry, and is told to look again.
        agent_ways: how agents may be met.
        own_pin: what agents know this engine by.
        clock: what time it is, and for deadlines.
        turns: keep requests apart.
        tasks: go on behind requests.
    """

    registry: HostRegistry
    clusters: Clusters
    events: Events
    jobs: Jobs
    access: HostAccess
    ways: SshWays
    monitor: Monitor
    agent_ways: AgentWays
    own_pin: Pin
    clock: IReactorTime
    turns: Turns = field(default_factory=Turns)
    tasks: Tasks = field(default_factory=Tasks)

    @property
    def announcements(self) -> Announcements:
        """The events that tell of hosts."""
        return self.registry.announcements
