"""The entry points of the commands, which are there also where their extra is not."""

from __future__ import annotations

from pkengine.extras import needs_extra


def pkengine() -> None:
    """Run the command ``pkengine``."""
    with needs_extra("pkengine", "engine,agent"):
        from pkengine.cli.pkengine import main
    main()


def pkagent() -> None:
    """Run the command ``pkagent``."""
    with needs_extra("pkagent", "agent"):
        from pkengine.cli.pkagent import main
    main()
