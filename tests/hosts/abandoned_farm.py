"""A program that starts a host, says which process is its first one, and does not clean up."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import react

from tests.hosts import Farm


async def main(reactor: Any) -> None:
    """Say the number of the host's first process, and of the network; then wait to be killed."""
    farm = Farm(reactor)
    await farm.open()
    host = await farm.host("abandoned")
    print(host.first_process, farm.network.number, flush=True)
    await Deferred()


if __name__ == "__main__":
    react(lambda reactor: ensureDeferred(main(reactor)))
