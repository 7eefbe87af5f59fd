"""What the commands show to a person, and what they ask a person."""

from __future__ import annotations

import contextlib
import datetime
import json
import signal
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import click

from pkengine.cli.exit_status import CommandFailed, ExitStatus


def is_interactive() -> bool:
    """Tell whether a person can be asked: both ends of the dialogue are a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def printable(text: object) -> str:
    """Replace what could steer a terminal: names and errors may come from elsewhere."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character)[0] == "C" else character
        for character in " ".join(str(text).splitlines())
    )


def show(text: str) -> None:
    """Print a line of the outcome."""
    click.echo(printable(text))


def tell(text: str) -> None:
    """Print a line about what is going on, apart from the outcome."""
    click.echo(printable(text), err=True)


def show_json(document: object, *, indent: int | None = 2) -> None:
    """Print one JSON document; without indentation it takes one line."""
    click.echo(json.dumps(document, indent=indent, ensure_ascii=True))


def show_columns(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print aligned columns under their heads."""
    table = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def local_time(milliseconds: object) -> str:
    """Write a time of the API, which counts milliseconds, as a person reads it here."""
    moment = datetime.datetime.fromtimestamp(int(str(milliseconds)) / 1000).astimezone()
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def ask(question: str, *, with_editing: bool = False) -> str:
    """Ask a person for one line.

    Args:
        question: is printed on standard error, as all that is no outcome.
        with_editing: print it on standard output where that is a terminal: Python reads
            with the library that edits and completes lines only where both are one.

    Raises:
        CommandFailed: it was interrupted.
    """
    err = not (with_editing and sys.stdout.isatty())
    with _interruptible():
        answer: str = click.prompt(question, prompt_suffix="? ", err=err)
    return answer


def ask_password(question: str) -> str:
    """Ask a person for a password, which is not shown.

    Raises:
        CommandFailed: it was interrupted.
    """
    with _interruptible():
        answer: str = click.prompt(question, hide_input=True, err=True)
    return answer


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end a prompt: a running reactor would take the signal and do nothing."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except click.Abort:
        raise CommandFailed("Interrupted.", ExitStatus.INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, before)
