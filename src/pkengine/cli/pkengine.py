"""The command ``pkengine``: a client of an engine's REST API.

Modules that take time to import are imported by the commands that need them, so that help
and mistakes are answered at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pkengine import __version__
from pkengine.cli.engine_options import EngineOptions
from pkengine.cli.event_commands import events
from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.host_commands import host
from pkengine.cli.known_host_commands import host_ca, known_hosts
from pkengine.cli.ssh_key import ssh_key
from pkengine.cli.terminal import tell

_EPILOG = """\
Exit status: 0 done, 1 failed, 2 usage, 3 the engine cannot be reached or verified,
4 not authorised, 5 not found, 6 refused (such as a wrong fingerprint), 130 interrupted.
"""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url",
    metavar="URL",
    help="The engine, such as https://engine.example/ovirt-engine/api. [env: PKENGINE_URL]",
)
@click.option("--user", metavar="NAME", help="[env: PKENGINE_USER; default: admin@internal]")
@click.option(
    "--password-file",
    metavar="FILE",
    help="Holds the password in its first line; - is standard input. "
    "[env: PKENGINE_PASSWORD_FILE, or the password itself in PKENGINE_PASSWORD]",
)
@click.option(
    "--ca-file",
    metavar="FILE",
    help="PEM certificates to verify the engine against; its own https.crt will do. "
    "[env: PKENGINE_CA_FILE; default: what this system trusts]",
)
@click.option(
    "--state",
    metavar="DIR",
    help="The state folder of an engine on this machine: takes URL, certificate and first "
    "password from there. [env: PKENGINE_STATE]",
)
@click.version_option(__version__, prog_name="pkengine")
@click.pass_context
def cli(
    context: click.Context,
    url: str | None,
    user: str | None,
    password_file: str | None,
    ca_file: str | None,
    state: str | None,
) -> None:
    """Manage the hosts of an engine."""
    context.obj = EngineOptions(url, user, password_file, ca_file, state)


cli.add_command(host)
cli.add_command(events)
cli.add_command(known_hosts)
cli.add_command(host_ca)
cli.add_command(ssh_key)


@cli.command()
@click.option("--once", is_flag=True, help="End when all is checked; exit 0 if all was right.")
@click.option(
    "--mechanism",
    type=click.Choice(["pin", "sign", "hmac", "spake2plus"]),
    help="Let the agent dial the engine, and both prove so who they are.",
)
@click.option(
    "--behind",
    type=click.Choice(["nginx", "haproxy", "stunnel"]),
    help="Put that proxy, which must be installed, in front of the engine; it ends TLS.",
)
@click.option(
    "--join", "is_joining", is_flag=True, help="Let the host join by a code, without SSH."
)
def demo(once: bool, mechanism: str | None, behind: str | None, is_joining: bool) -> None:
    """Show the whole idea on this machine, and leave nothing behind.

    Starts an engine and a throw-away SSH host in a temporary folder, adds the host with its
    fingerprint, deploys the agent, checks what each side trusts, and shows that a wrong
    fingerprint is refused.  The engine dials the agent, unless an option lets the agent dial
    the engine.  Needs neither root nor, without --behind, a package of the system.
    """
    from pkengine.cli.demo.keeper import run_kept

    def work(folder: Path) -> int:
        from pkengine.cli.demo.show import show_all  # the reactor belongs to the worker alone
        from pkengine.cli.demo.stage import Setting

        show_all(folder, Setting(mechanism, behind, is_joining), once=once)

    status = run_kept(work)
    tell("The demo has ended: no process and no folder of it is left.")
    sys.exit(status)


def main() -> None:
    """Run the command; the console script's entry point."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CommandFailed as error:
        tell(f"pkengine: {error}")
        sys.exit(error.status)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(ExitStatus.INTERRUPTED)
