"""What is not installed with the authenticators alone: say so in a sentence.

``pip install pkengine`` brings the authenticators; the engine, the agent and their commands
need an extra.  The commands are there all the same, so each says what it wants.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def needs_extra(command: str, extra: str) -> Iterator[None]:
    """End the process with one sentence where an import misses a package of an extra.

    Args:
        command: what the person runs.
        extra: which extra brings the package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "pkengine":
            raise
        sys.exit(
            f"{command}: the package {error.name!r} is not installed. "
            f"Run: pip install 'pkengine[{extra}]'"
        )
