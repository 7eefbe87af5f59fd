"""The options of ``pkengine`` that say which engine is meant."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import click

from pkengine.cli.login import Login, resolve_login
from pkengine.cli.terminal import ask_password, is_interactive

if TYPE_CHECKING:
    from pkengine.cli.rest_client import RestClient


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The options as given; what is None comes from the environment or the defaults."""

    url: str | None
    user: str | None
    password_file: str | None
    ca_file: str | None
    state: str | None

    def login(self) -> Login:
        """Give the login that the options and the environment describe.

        Raises:
            CommandFailed: they describe none.
        """
        return resolve_login(
            url=self.url,
            user=self.user,
            password_file=self.password_file,
            ca_file=self.ca_file,
            state=self.state,
            environ=os.environ,
            ask_password=ask_password if is_interactive() else None,
        )

    def run(self, work: Callable[[RestClient], Coroutine[Any, Any, None]]) -> NoReturn:
        """Run a coroutine that talks to that engine, and exit."""
        from pkengine.cli.running import run_with_engine

        run_with_engine(self.login(), work)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for scripts, in place of text."
)
