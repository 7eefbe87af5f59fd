"""The oVirt-compatible REST API, everything below ``/ovirt-engine``.

A request passes `application` (routing, login, faults), then one of `hosts`, `events`,
`clusters`, `jobs`, `users`, `root`.  What their answers look like is declared in `elements` and
`host_elements`, and written by `xml_form` or `json_form`.
"""

from __future__ import annotations

import uuid
from itertools import chain
from typing import Protocol

from klein import Klein
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource

from pkengine.engine.accounts import Accounts
from pkengine.engine.clusters import Clusters
from pkengine.engine.events import Events
from pkengine.engine.hosts.agent_relays import AgentRelays
from pkengine.engine.hosts.batches import HostBatches
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.hosts.ssh_key_rotation import SshKeyRotation
from pkengine.engine.jobs import Jobs
from pkengine.engine.joining.invitations import Invitations
from pkengine.engine.rest.agent_relays import KeyAgentResource
from pkengine.engine.rest.application import Application, Folder, Routed, refuse
from pkengine.engine.rest.authorization import Authorizer
from pkengine.engine.rest.clusters import ClusterResource
from pkengine.engine.rest.elements import CLUSTER, JOB
from pkengine.engine.rest.engine_ssh_key import EngineSshKeyResource
from pkengine.engine.rest.events import EventResource
from pkengine.engine.rest.follow import Follower
from pkengine.engine.rest.host_actions import HostActions
from pkengine.engine.rest.host_batches import HostBatchResource
from pkengine.engine.rest.host_collections import HostCollections
from pkengine.engine.rest.host_elements import HOST
from pkengine.engine.rest.hosts import HostResource
from pkengine.engine.rest.invitations import InvitationResource
from pkengine.engine.rest.job_actions import JobActions
from pkengine.engine.rest.jobs import JobResource
from pkengine.engine.rest.key_changes import KeyChangeResource
from pkengine.engine.rest.known_hosts import KnownHostResource
from pkengine.engine.rest.openapi import Description
from pkengine.engine.rest.pki import PublicKeys
from pkengine.engine.rest.registration import HostRegistration
from pkengine.engine.rest.root import RootResource
from pkengine.engine.rest.server import HttpServer
from pkengine.engine.rest.sso import SignOn
from pkengine.engine.rest.users import UserResource
from pkengine.engine.user_administration import UserAdministration
from pkengine.keys import KeyPair
from pkengine.ssh import SshKeyRing

__all__ = ["HttpServer", "ServedEngine", "site"]


class ServedEngine(Protocol):
    """What the API needs of an engine."""

    @property
    def clock(self) -> IReactorTime:
        """What time it is."""

    @property
    def accounts(self) -> Accounts:
        """Who may log in."""

    @property
    def user_administration(self) -> UserAdministration:
        """Who is a user."""

    @property
    def hosts(self) -> Hosts:
        """The hosts."""

    @property
    def agent_relays(self) -> AgentRelays:
        """The ways to ssh-agents of administrators."""

    @property
    def invitations(self) -> Invitations:
        """The hosts that may join by a code."""

    @property
    def agent_url(self) -> str:
        """Where agents find the engine, or empty where nobody has said."""

    @property
    def clusters(self) -> Clusters:
        """Their clusters."""

    @property
    def events(self) -> Events:
        """The event log."""

    @property
    def jobs(self) -> Jobs:
        """What is under way."""

    @property
    def ssh_keys(self) -> SshKeyRing:
        """What the engine logs in to hosts with."""

    @property
    def host_batches(self) -> HostBatches:
        """The hosts that are added together."""

    @property
    def ssh_key_rotation(self) -> SshKeyRotation:
        """What replaces it on all hosts."""

    @property
    def key_pair(self) -> KeyPair:
        """What agents know the engine by."""

    @property
    def https_key_pair(self) -> KeyPair:
        """What clients of the API see."""


def site(engine: ServedEngine) -> IResource:
    """Make the resource for ``/ovirt-engine``."""
    users = UserResource(engine.user_administration, engine.accounts, engine.events)
    collections = HostCollections(engine.hosts, engine.jobs, users)
    clusters = ClusterResource(engine.clusters)
    jobs = JobResource(engine.jobs)
    actions = JobActions(engine.jobs)
    follower = Follower(
        {
            HOST: (*clusters.links_of_hosts(), *collections.links()),
            CLUSTER: tuple(clusters.links()),
            JOB: tuple(jobs.links()),
        }
    )
    instance_id = uuid.uuid5(uuid.NAMESPACE_URL, str(engine.key_pair.pin))
    routes = tuple(
        chain(
            RootResource(
                engine.hosts, engine.user_administration, instance_id, engine.clock
            ).routes(),
            clusters.routes(),
            HostResource(engine.hosts, engine.clusters, engine.jobs).routes(),
            HostActions(engine.hosts, engine.clusters, actions).routes(),
            collections.routes(),
            KeyChangeResource(engine.hosts.key_changes).routes(),
            KeyAgentResource(engine.agent_relays).routes(),
            KnownHostResource(engine.hosts.known_keys).routes(),
            HostBatchResource(engine.host_batches, engine.clusters, actions).routes(),
            EngineSshKeyResource(engine.ssh_key_rotation, actions).routes(),
            InvitationResource(engine.invitations, engine.agent_url).routes(),
            EventResource(engine.events).routes(),
            jobs.routes(),
            users.routes(),
        )
    )
    sign_on = SignOn(engine.accounts, engine.events)
    public_keys = PublicKeys(
        lambda: engine.ssh_keys.newest.public,
        engine.key_pair.certificate_pem(),
        engine.https_key_pair.certificate_pem(),
    )
    services = Klein()
    sign_on.add_logout(services)
    public_keys.add_to(services)
    HostRegistration(engine.hosts, public_keys, engine.clock).add_to(services)
    services.handle_errors(Exception)(refuse)

    root = Folder()
    application = Application(routes, follower, Authorizer(engine.accounts), engine.events)
    application.add(Description(routes, follower))
    root.putChild(b"api", application.resource())
    root.putChild(b"sso", sign_on.resource())
    root.putChild(b"services", Routed(services))
    return root
