"""Fuzz one target: ``python -m tests.fuzz.run TARGET CORPUS [-runs=N] [libFuzzer options]``.

CORPUS is a folder: what the fuzzer finds worth keeping is added to it, and seeds are put there
first.  A finding ends the run with exit status 77 and leaves a ``crash-…`` file.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pkengine"]):
    from tests.fuzz.targets import TARGETS, seeds


def main() -> None:
    name, corpus, *options = sys.argv[1:]
    folder = Path(corpus)
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds(name):
        (folder / hashlib.sha256(seed).hexdigest()).write_bytes(seed)
    atheris.Setup([sys.argv[0], str(folder), *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
