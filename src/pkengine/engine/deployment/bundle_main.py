"""Starts a command of the agent on a host: the ``__main__`` of the folder of packages.

``python -I -S LIB COMMAND ARGUMENT…`` has nothing but LIB and the standard library on its
path.  Commands: ``pkagent``, ``twistd``, and ``check``, which loads all that the service
needs, so that what is missing on a host shows before the service is touched, and leaves the
compiled modules behind for the next start.
"""

from __future__ import annotations

import importlib
import sys


def main() -> None:
    """Run the command that the arguments name."""
    command = sys.argv.pop(1)
    sys.argv[0] = command
    if command == "twistd":
        from twisted.scripts.twistd import run

        run()
    elif command == "pkagent":
        from pkengine.cli.pkagent import main as pkagent

        pkagent()
    else:
        assert command == "check", command
        check()


def check() -> None:
    """Load the service, its command line and a reactor, and fail where one does not load."""
    from twisted.application.service import IServiceMaker
    from twisted.plugin import getPlugins

    if all(maker.tapname != "pkagent" for maker in getPlugins(IServiceMaker)):
        sys.exit("The plugin 'pkagent' is missing.")
    for name in [
        "pkengine.agent.options",
        "pkengine.agent.service",
        "pkengine.cli.pkagent",
        "twisted.internet.reactor",
        "twisted.scripts.twistd",
    ]:
        importlib.import_module(name)


if __name__ == "__main__":
    main()
