"""An AMP service that answers peers with a trusted key, and knows which of them asks."""

import sys

from twisted.internet import defer, endpoints, protocol, task
from twisted.protocols import amp


class Sum(amp.Command):
    arguments = [(b"a", amp.Integer()), (b"b", amp.Integer())]
    response = [(b"total", amp.Integer()), (b"asked_by", amp.Unicode())]


class Calculator(amp.AMP):
    @Sum.responder
    def sum(self, a, b):
        return {"total": a + b, "asked_by": self.transport.authenticated.peer.name}


async def serve(reactor, where):
    endpoint = endpoints.serverFromString(reactor, where)
    port = await endpoint.listen(protocol.Factory.forProtocol(Calculator))
    print(f"listening on {port.getHost().port}", flush=True)
    await defer.Deferred()


async def ask(reactor, where, a, b):
    endpoint = endpoints.clientFromString(reactor, where)
    calculator = await endpoint.connect(protocol.Factory.forProtocol(amp.AMP))
    answer = await calculator.callRemote(Sum, a=int(a), b=int(b))
    print(f"{answer['total']}, asked by {answer['asked_by']}")
    calculator.transport.loseConnection()


if __name__ == "__main__":
    task.react({"serve": serve, "ask": ask}[sys.argv[1]], sys.argv[2:])
