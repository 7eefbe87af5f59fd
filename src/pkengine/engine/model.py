"""What the engine knows: hosts, clusters, events and jobs, and what may be asked of them.

These values travel between the store, the life cycle of hosts and the REST API.  The names
and meanings are those of the oVirt 4 model.
"""

from __future__ import annotations

import datetime
import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from pkengine.auth.peer import PeerKey
from pkengine.channel.verbs import Capabilities, HardwareInfo
from pkengine.keys import Secret, SshFingerprint, SshPublicKey
from pkengine.listening import AGENT_PORT
from pkengine.ssh.known_hosts import KnownHost

DEFAULT_SSH_PORT = 22
DEFAULT_SSH_USER = "root"


class HostStatus(enum.Enum):
    """The states of a host (oVirt's HostStatus) that this engine uses."""

    INSTALLING = "installing"
    INSTALL_FAILED = "install_failed"
    INITIALIZING = "initializing"
    UNASSIGNED = "unassigned"
    UP = "up"
    CONNECTING = "connecting"
    NON_RESPONSIVE = "non_responsive"
    NON_OPERATIONAL = "non_operational"
    PREPARING_FOR_MAINTENANCE = "preparing_for_maintenance"
    MAINTENANCE = "maintenance"
    REBOOT = "reboot"
    PENDING_APPROVAL = "pending_approval"
    DOWN = "down"
    ERROR = "error"


class HostKeySource(enum.Enum):
    """How a host's SSH key came to be trusted."""

    GIVEN_FINGERPRINT = "given_fingerprint"
    GIVEN_KEY = "given_key"
    KNOWN_HOSTS = "known_hosts"
    CERTIFICATE = "certificate"
    DNS = "dns"
    FIRST_USE = "first_use"
    APPROVED = "approved"
    PROVED = "proved"


class HostConnection(enum.Enum):
    """Which end dials the other."""

    ENGINE_DIALS = "engine-dials"
    AGENT_DIALS = "agent-dials"


class KeySource(enum.Enum):
    """How a key of an agent came to be trusted."""

    DEPLOYED = "deployed"  # exchanged over the SSH session of an installation
    REKEYED = "rekeyed"  # exchanged over the channel that a key before it had proved
    JOINED = "joined"  # exchanged with who knew a code


class SshAuthenticationMethod(enum.Enum):
    """How the engine logs in to a host."""

    PASSWORD = "password"  # noqa: S105 - the name of a method
    PUBLIC_KEY = "publickey"


class Severity(enum.Enum):
    """How much an event matters (oVirt's LogSeverity)."""

    NORMAL = "normal"
    WARNING = "warning"
    ERROR = "error"
    ALERT = "alert"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A group of hosts."""

    id: uuid.UUID
    name: str
    description: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class JumpHost:
    """A machine on the way to a host, as by ``ssh -J``; its keys are among the known ones."""

    address: str
    port: int = DEFAULT_SSH_PORT
    user: str = DEFAULT_SSH_USER

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        port = "" if self.port == DEFAULT_SSH_PORT else f":{self.port}"
        return f"{self.user}@{address}{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSsh:
    """How a host is reached by SSH, and its key.

    Attributes:
        fingerprint: the one that an administrator gave, else that of `public_key`.
        public_key: the host key that was judged and kept, or None before the first login.
        key_source: how that key came to be trusted.
        proved_keys: others that the host has, as it proved when it showed that key.
        jumps: the machines on the way, the one next to the engine first.
    """

    port: int = DEFAULT_SSH_PORT
    user: str = DEFAULT_SSH_USER
    fingerprint: SshFingerprint | None = None
    public_key: SshPublicKey | None = None
    key_source: HostKeySource | None = None
    proved_keys: tuple[SshPublicKey, ...] = ()
    jumps: tuple[JumpHost, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """One key by which a host's agent may prove itself, in one way.

    Attributes:
        key: the pin of the agent's public key, or the id of a secret that it shares with
            the engine.
        mechanism: the one in which the key is accepted; a key that is accepted in two is
            two of these.
        source: how it came to be trusted.
        added: since when.
        sealed: the engine's half of the shared secret, as `pkengine.engine.store.sealing`
            encrypts it; None for a pin.
    """

    key: PeerKey
    mechanism: str
    source: KeySource
    added: datetime.datetime
    sealed: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextWay:
    """Another way in which a host and the engine come together, about to be the only one.

    Attributes:
        connection: which end dials.
        mechanism: how both prove who they are.
        key: the one of the host's keys by which it comes then.
    """

    connection: HostConnection
    mechanism: str
    key: PeerKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One managed host.

    Attributes:
        port: where its agent listens.
        status_detail: why it is in that status, where there is a reason to give.
        connection: which end dials.
        mechanism: how its agent and the engine are to prove who they are.
        keys: those of its agent that are trusted, in the order in which they came; empty
            until a deployment was whole.  While a way is changed, there are some of both.
        next_way: a change that is under way, or None.
        capabilities, hardware: what the agent said last, or None before the first time.
        agent_version: the version that the agent gave last, or empty.
        reinstallation_required: a change waits for the next install.
        require_direct: its agent is refused where TLS is not known to go from end to end.
        tls_path: what was found out about that when the agent last answered, `direct`,
            `proxied` or `unknown`; empty before the first time.
        update_available: its agent is another one than the engine would install, as far as
            was last checked.
    """

    id: uuid.UUID
    name: str
    address: str
    cluster_id: uuid.UUID
    status: HostStatus
    port: int = AGENT_PORT
    comment: str = ""
    description: str = ""
    status_detail: str = ""
    ssh: HostSsh = field(default_factory=HostSsh)
    connection: HostConnection = HostConnection.ENGINE_DIALS
    mechanism: str = "pin"
    keys: tuple[HostKey, ...] = ()
    next_way: NextWay | None = None
    capabilities: Capabilities | None = None
    hardware: HardwareInfo | None = None
    agent_version: str = ""
    reinstallation_required: bool = False
    update_available: bool = False
    require_direct: bool = False
    tls_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JumpLogin:
    """What a request says about a machine on the way.

    Attributes:
        password: used for this request only and stored nowhere; without one the engine logs
            in by its own key.
        fingerprint, public_key: what the machine's key must be, at most one of the two; where
            neither is given, what is known of it counts.
    """

    host: JumpHost
    password: Secret | None = None
    fingerprint: SshFingerprint | None = None
    public_key: SshPublicKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SshLogin:
    """What a request says about logging in to a host; what is None is left as stored.

    Attributes:
        authentication_method: None means a password where one is given, else the key.
        password: used for this request only and stored nowhere.
        jumps: the way to the host; empty is the direct one.
        key_agent: the relay to the ssh-agent that signs in place of the engine's own key.
    """

    port: int | None = None
    user: str | None = None
    authentication_method: SshAuthenticationMethod | None = None
    password: Secret | None = None
    fingerprint: SshFingerprint | None = None
    public_key: SshPublicKey | None = None
    jumps: tuple[JumpLogin, ...] | None = None
    key_agent: uuid.UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WayChoice:
    """What a request says about connecting to a host's agent; what is None is left open."""

    connection: HostConnection | None = None
    mechanism: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewHost:
    """A request to add a host."""

    name: str
    address: str
    port: int = AGENT_PORT
    comment: str = ""
    description: str = ""
    cluster_id: uuid.UUID | None = None
    ssh: SshLogin = field(default_factory=SshLogin)
    way: WayChoice = field(default_factory=WayChoice)
    require_direct: bool = False
    activate: bool = True
    reboot: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostChange:
    """A request to change a host; what is None stays as it is."""

    name: str | None = None
    address: str | None = None
    port: int | None = None
    comment: str | None = None
    description: str | None = None
    cluster_id: uuid.UUID | None = None
    ssh: SshLogin = field(default_factory=SshLogin)
    way: WayChoice = field(default_factory=WayChoice)
    require_direct: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who asks, for the audit of what follows.

    Attributes:
        user: such as ``admin@internal``; empty where the engine itself acts.
        address: from where.
        correlation_id: what the caller gave, or one made for the request.
    """

    user: str = ""
    address: str = ""
    correlation_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownKey:
    """A line of what is known of SSH host keys, beside the stored keys of the hosts.

    Attributes:
        line: which key is meant, for which names, and whether it is revoked or signs.
        source: how it came to be known.
        user: who gave it.
    """

    id: uuid.UUID
    line: KnownHost
    source: HostKeySource
    user: str
    added: datetime.datetime


class KeyStanding(enum.Enum):
    """What is known of a key that is shown at an address where no host is yet."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    MISMATCH = "mismatch"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownKey:
    """A key that is shown at an address.

    Attributes:
        standing: `MISMATCH` says that others are known, and none of them was shown.
        source: what vouches for it where it is known.
    """

    key: SshPublicKey
    standing: KeyStanding = KeyStanding.UNKNOWN
    source: HostKeySource | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """A host shows other SSH keys than the stored one, and an administrator is to decide.

    Attributes:
        seen_at: where they were found, such as ``192.0.2.10 port 22``.
        old_fingerprint: what the host's key was to have.
        old_key: the stored key, or None where only a fingerprint was known.
        new_keys: what was found, at least one; no credential was sent to who showed it.
        operation: what was refused because of it last, such as ``install``.
        user: who asked for that.
        times_seen: how often these keys were found.
    """

    host_id: uuid.UUID
    host_name: str
    seen_at: str
    old_fingerprint: SshFingerprint
    old_key: SshPublicKey | None
    new_keys: tuple[SshPublicKey, ...]
    operation: str
    user: str
    first_seen: datetime.datetime
    last_seen: datetime.datetime
    times_seen: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the event log; `id` counts up and has no gap that a reader must know.

    Attributes:
        user, address: who asked for it and from where; empty where the engine itself acted.
    """

    id: int
    code: int
    severity: Severity
    time: datetime.datetime
    description: str
    host_id: uuid.UUID | None = None
    host_name: str = ""
    cluster_id: uuid.UUID | None = None
    user: str = ""
    address: str = ""
    correlation_id: str = ""


class InvitationState(enum.Enum):
    """What became of an invitation; each but the first is final."""

    OPEN = "open"
    USED = "used"
    BURNT = "burnt"  # after too many wrong guesses
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """A code was given out, and whoever knows it may join as a host.

    Attributes:
        number: the public part of the code.
        host_name: what the host will be called; empty for what it calls itself.
        is_approved: the host needs no approval when it has joined.
        guesses: how many wrong codes may have been tried; see `pkengine.engine.joining.guesses`.
        sealed: what verifies the words of the code, encrypted.
        user: who made it.
        ended: when it was used, or ended otherwise.
        host_id: which host used it.
    """

    id: uuid.UUID
    number: int
    state: InvitationState
    created: datetime.datetime
    expires: datetime.datetime
    sealed: bytes = field(repr=False)
    host_name: str = ""
    is_approved: bool = False
    guesses: int = 0
    user: str = ""
    ended: datetime.datetime | None = None
    host_id: uuid.UUID | None = None


class StepStatus(enum.Enum):
    """How far a job or one of its steps is (oVirt's JobStatus)."""

    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One named step of a job, with its progress in per cent where that can be told."""

    name: str
    description: str
    status: StepStatus
    progress: int | None = None
    started: datetime.datetime | None = None
    ended: datetime.datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A long operation that a request began, such as a deployment."""

    id: uuid.UUID
    description: str
    status: StepStatus
    started: datetime.datetime
    ended: datetime.datetime | None = None
    host_id: uuid.UUID | None = None
    correlation_id: str = ""
    steps: tuple[Step, ...] = ()


class KeyRotationStatus(enum.Enum):
    """How far the rotation of the engine's SSH key is on a host."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKeyRotation:
    """How far the rotation of the engine's SSH key is on one host.

    Attributes:
        detail: why it failed, or empty.
        tried: when that was, or None where it was not.
    """

    host_id: uuid.UUID
    host_name: str
    status: KeyRotationStatus = KeyRotationStatus.WAITING
    detail: str = ""
    tried: datetime.datetime | None = None


class RowJudgement(enum.Enum):
    """What is to be thought of a host that is to be added, before it is."""

    MATCH = "match"
    FIRST_USE = "first use"
    MISMATCH = "mismatch"
    OTHER_TYPE = "other key type"
    UNREACHABLE = "unreachable"
    THERE = "there already"
    CONFLICT = "conflict"


class RowOutcome(enum.Enum):
    """What has become of a host that is to be added with others."""

    WAITING = "waiting"
    ADDING = "adding"
    ADDED = "added"
    FAILED = "failed"


class BatchStage(enum.Enum):
    """How far a list of hosts is that are added together.

    `INTERRUPTED` is where it was being added when the engine stopped: start it again.
    """

    REVIEWING = "reviewing"
    REVIEWED = "reviewed"
    ADDING = "adding"
    INTERRUPTED = "interrupted"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    """One host of a list.

    Attributes:
        number: its place in the list, from 1.
        wanted: the host, without any password.
        judgement: None before its SSH keys were looked at.
        expected: the key, or what its fingerprint is, that was given or is known.
        found: the key that would be trusted, or all that were found where none matches.
        detail: why, where that needs a sentence.
        host_id: the host, once it is known.
    """

    number: int
    wanted: NewHost
    judgement: RowJudgement | None = None
    expected: SshFingerprint | None = None
    found: tuple[SshPublicKey, ...] = ()
    outcome: RowOutcome = RowOutcome.WAITING
    detail: str = ""
    host_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBatch:
    """A list of hosts that are added together.

    Attributes:
        user: whose it is.
        job_id: the job that is, or was last, at work on it.
        judgements, outcomes: how many rows have each.
    """

    id: uuid.UUID
    stage: BatchStage
    created: datetime.datetime
    user: str
    job_id: uuid.UUID | None = None
    size: int = 0
    judgements: Mapping[RowJudgement, int] = field(default_factory=dict)
    outcomes: Mapping[RowOutcome, int] = field(default_factory=dict)
