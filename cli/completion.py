"""`requant completion`: what makes a shell complete commands, options, recipes, types and files."""

from __future__ import annotations

from typing import Final

import click

from requant.cli.terminal import say

_EXAMPLES: Final = """\b
Examples:
  requant completion bash > ~/.local/share/bash-completion/completions/requant
  source <(requant completion zsh)
  requant completion fish > ~/.config/fish/completions/requant.fish
"""
#: The variable by which the shell asks the program; click makes its name of that of the program.
_VARIABLE: Final = "_REQUANT_COMPLETE"


@click.command(epilog=_EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete requant's commands, options and their values.

    Load it once to try it, or put it where the shell looks for such scripts. bash must be 4.4 or later.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    program = click.get_current_context().find_root().command
    say(kind(program, {}, "requant", _VARIABLE).source())
