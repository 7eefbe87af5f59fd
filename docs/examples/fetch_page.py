"""Fetch a page from a web site that is behind an endpoint string."""

import sys

from twisted.internet import endpoints, task
from twisted.web.client import Agent, readBody
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from pkengine.errors import AuthenticationError


@implementer(IAgentEndpointFactory)
class Always:
    """Leads every request to one endpoint, whatever the URL says."""

    def __init__(self, endpoint):
        self.endpoint = endpoint

    def endpointForURI(self, uri):
        return self.endpoint


async def main(reactor, where, path="/"):
    endpoint = endpoints.clientFromString(reactor, where)
    agent = Agent.usingEndpointFactory(reactor, Always(endpoint))
    try:
        response = await agent.request(b"GET", b"http://site" + path.encode())
    except AuthenticationError as error:
        sys.exit(str(error))
    print((await readBody(response)).decode(), end="")


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
