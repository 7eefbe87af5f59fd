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
        self.answer = defer.Deferred()
        self.transport.write(b"hello")

    def dataReceived(self, data):
        self.answer.callback(data.decode())


async def main(reactor, role, folder, where):
    pin = authenticator_from_folder("pin", folder)
    if role == "serve":
        plain = endpoints.serverFromString(reactor, where)
        endpoint = AuthenticatedServerEndpoint(reactor, plain, pin)
        port = await endpoint.listen(protocol.Factory.forProtocol(Echo))
        print(f"listening on port {port.getHost().port}", flush=True)
        await defer.Deferred()
    plain = endpoints.clientFromString(reactor, where)
    endpoint = AuthenticatedClientEndpoint(reactor, plain, pin, expected="server")
    greeting = await endpoints.connectProtocol(endpoint, Greet())
    print(f"server echoes {await greeting.answer!r}")


task.react(main, sys.argv[1:])
