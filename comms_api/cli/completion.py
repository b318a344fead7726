"""`comms-api completion`: the scripts that complete commands and options in a shell."""

import click
from click.shell_completion import get_completion_class

PROGRAM = "comms-api"
VARIABLE = "_COMMS_API_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    Bash: eval "$(comms-api completion bash)" in ~/.bashrc; zsh: the same with zsh in ~/.zshrc; fish: comms-api
    completion fish > ~/.config/fish/completions/comms-api.fish.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(kind(context.find_root().command, {}, PROGRAM, VARIABLE).source())
