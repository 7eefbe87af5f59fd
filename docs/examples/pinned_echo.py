"""An echo service whose two ends know each other by their public keys, and by nothing else."""

import sys

from twisted.internet import defer, endpoints, protocol, task

from pkengine.auth import AuthenticatedClientEndpoint, AuthenticatedServerEndpoint
from pkengine.auth.mechanisms import authenticator_from_folder


class Echo(protocol.Protocol):
    def dataReceived(self, data):
        print(f"{self.transport.authenticated.peer.name} says {data.decode()!r}", flush=True)
        self.transport.write(data)


class Greet(protocol.Protocol):
    def connectionMade(self):
        self.ended = defer.Deferred()
        self.transport.write(b"hello")

    def dataReceived(self, data):
        print(f"{self.transport.authenticated.peer.name} echoes {data.decode()!r}", flush=True)
        self.transport.loseConnection()

    def connectionLost(self, reason):
        self.ended.callback(None)


async def main(reactor, role, folder, where):
    pin = authenticator_from_folder("pin", folder)
    if role == "serve":
        plain = endpoints.serverFromString(reactor, where)
        endpoint = AuthenticatedServerEndpoint(reactor, plain, pin)
        port = await endpoint.listen(protocol.Factory.forProtocol(Echo))
        print(f"listening on {port.getHost().port}", flush=True)
        await defer.Deferred()
    plain = endpoints.clientFromString(reactor, where)
    endpoint = AuthenticatedClientEndpoint(reactor, plain, pin, "server")
    greeting = await endpoint.connect(protocol.Factory.forProtocol(Greet))
    await greeting.ended


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
