"""A line protocol whose peers log in at a twisted.cred portal by being who they are."""

import sys

from twisted.cred import portal
from twisted.internet import defer, endpoints, protocol, task
from twisted.protocols import basic
from zope.interface import Attribute, Interface, implementer

from pkengine.auth.cred import PeerChecker, PeerCredentials


class IDesk(Interface):
    owner = Attribute("The name of the peer whose desk it is.")


@implementer(IDesk)
class Desk:
    def __init__(self, owner):
        self.owner = owner


@implementer(portal.IRealm)
class Office:
    def requestAvatar(self, avatar_id, mind, *interfaces):
        return IDesk, Desk(avatar_id.decode()), lambda: None


class DeskProtocol(basic.LineOnlyReceiver):
    async def log_in(self):
        shown = PeerCredentials.of(self.transport)
        _, self.desk, self.log_out = await self.factory.portal.login(shown, None, IDesk)
        self.sendLine(f"welcome, {self.desk.owner}".encode())

    def connectionMade(self):
        refused = defer.ensureDeferred(self.log_in())
        refused.addErrback(lambda failure: self.transport.loseConnection())

    def lineReceived(self, line):
        self.sendLine(line[::-1])


class Visitor(basic.LineOnlyReceiver):
    def connectionMade(self):
        self.ended = defer.Deferred()
        self.sendLine(b"stressed")

    def lineReceived(self, line):
        print(line.decode(), flush=True)
        if line == b"desserts":
            self.transport.loseConnection()

    def connectionLost(self, reason):
        self.ended.callback(None)


async def serve(reactor, where, *names):
    factory = protocol.Factory.forProtocol(DeskProtocol)
    factory.portal = portal.Portal(Office(), [PeerChecker(names)])
    port = await endpoints.serverFromString(reactor, where).listen(factory)
    print(f"listening on {port.getHost().port}", flush=True)
    await defer.Deferred()


async def visit(reactor, where):
    endpoint = endpoints.clientFromString(reactor, where)
    visitor = await endpoint.connect(protocol.Factory.forProtocol(Visitor))
    await visitor.ended


if __name__ == "__main__":
    task.react({"serve": serve, "visit": visit}[sys.argv[1]], sys.argv[2:])
