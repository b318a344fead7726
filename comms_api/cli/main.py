"""The entry point: it lists the commands, and prints their errors."""

import sys
from importlib import import_module
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem

from comms_api.errors import CommsError
from comms_api.text.printable import escape_controls


class Entry(NamedTuple):
    """A command: the module of this package that has it, and the first line of its help."""

    module: str
    help: str


COMMANDS = {
    "serve": Entry("serve", "Run a node."),
    "agent": Entry("agent", "Run an agent on this host."),
    "login": Entry("people.login", "Log in, and keep the login in a profile."),
    "logout": Entry("people.login", "Revoke the user's tokens, and forget the login of the profile."),
    "whoami": Entry("people.login", "Show the user that is logged in, and the server."),
    "profiles": Entry("people.profiles", "Show and delete the logins that `comms-api login` has kept."),
    "agents": Entry("agents.agents", "Show, enroll, block and delete agents."),
    "groups": Entry("agents.groups", "Show, create and delete groups, and change their members."),
    "tokens": Entry("agents.tokens", "Show, create and revoke tokens that enroll agents."),
    "commands": Entry("commands", "Submit commands to agents and services, and follow them."),
    "orders": Entry("orders.orders", "Show and cancel orders: the parts of commands, one for each recipient."),
    "actions": Entry("orders.actions", "Show, register and delete the actions whose args are checked."),
    "cluster": Entry("cluster", "Show the nodes, and move agents between them."),
    "fleet": Entry("fleet", "Show what happened to agents and nodes."),
    "files": Entry("files", "Show and change the files of groups."),
    "webhooks": Entry("webhooks", "Post events and results to other programs."),
    "users": Entry("people.users", "Show, create, change and delete users, and help users who cannot log in."),
    "audit": Entry("people.audit", "Show who changed what."),
    "events": Entry("events.command", "Search and follow the events of agents, and copy them."),
    "states": Entry("stored.states", "Show the states that agents report, such as inventories."),
    "quarantine": Entry("stored.quarantine", "Show the lines of agents that could not be stored as events."),
    "migrate": Entry("migrate", "Upgrade the schema of the database, as `comms-api serve` does when it starts."),
    "backup": Entry("backup", "Write a backup of a node: its database, secret, certificates and settings."),
    "restore": Entry("backup", "Restore a backup of a node."),
    "doctor": Entry("doctor", "Check a whole deployment, and suggest a remedy for each problem."),
    "completion": Entry("completion", "Print the completion script of a shell."),
    "demo": Entry("demo", "Run a demonstration of the server."),
}
"""Each entry's module has a command of the same name."""


class LazyGroup(click.Group):
    """Imports a command when it is called, so that a server does not hold the other commands in memory."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """Return the command of this name, or None."""
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"comms_api.cli.{COMMANDS[name].module}"), name)
        return command

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands, without importing them, and the options that begin with a text."""
        found = [CompletionItem(name, help=COMMANDS[name].help) for name in COMMANDS if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, context, incomplete)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="comms-api")
def comms_api() -> None:
    """Run a server for a fleet of security agents, or an agent."""


def main() -> None:
    """Run a command; an operator's error is one line on standard error with exit code 1 (wrong usage: 2)."""
    try:
        comms_api(prog_name="comms-api")
    except UnicodeEncodeError as error:
        if error.reason != "surrogates not allowed":
            raise
        click.echo(f"comms-api: an argument or a setting is not UTF-8: {escape_controls(error.object)}", err=True)
        sys.exit(1)
    except CommsError as error:
        click.echo(f"comms-api: {escape_controls(str(error))}", err=True)
        sys.exit(1)
