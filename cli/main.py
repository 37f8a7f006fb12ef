"""`requant`: the table of commands, and what happens to errors."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from requant.cli import interrupts
from requant.cli.saying import asked_for, failure, say_failure
from requant.cli.terminal import complain, remark, say, show_usage, take_any_text
from requant.errors import Error
from requant.temporary import remove_temporary_folders

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: command -> what it does; the module of that name holds the function of that name, and is imported when it is used.
COMMANDS: Final[Mapping[str, str]] = {
    "convert": "Convert a model file or folder to another format, dtype or quantization.",
    "merge": "Merge several models into one, or keep some layers of one.",
    "prune": "Make weights of a model zero, or cut out parts of it.",
    "requantize": "Change the quantization types of a GGUF, with the arguments of llama-quantize.",
    "split": "Cut a model into several files.",
    "join": "Make one file of a model that is in several.",
    "calibrate": "Run a model over text and write an importance matrix.",
    "student": "Begin a smaller model with some layers of a teacher, perhaps narrower ones.",
    "run": "Carry out a recipe of stages: merge, prune, calibrate, quantize, check.",
    "inspect": "Show what a model file or folder consists of.",
    "diff": "Compare two models of any formats: settings, tokenizers, tensors, numbers.",
    "validate": "Look at every rule of a model's files, and list those that are broken.",
    "extract": "Write tensors, tokenizer, template or configuration of a model to files.",
    "edit": "Change what a file says of itself: keys, template, tokens, names; in place.",
    "hash": "Print or verify checksums of a model's tensors.",
    "check": "Load a GGUF in the real llama.cpp, let it answer, and measure it.",
    "recommend": "Tell which recipe of a model fits a memory, and what it is expected to lose.",
    "types": "List every tensor type of GGUF.",
    "families": "List the model families, and what is lost of each.",
    "completion": "Make bash, zsh or fish complete commands, options and values.",
}


class _Group(click.Group):
    """Commands are imported when asked for, so that `--help` and `inspect` start quickly."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            from requant.nearest import did_you_mean

            hint = did_you_mean(cmd_name, COMMANDS, "")
            raise click.UsageError(f"No such command {cmd_name!r}." + (f" D{hint[1:]}" if hint else ""), ctx)
        command = getattr(importlib.import_module(f"requant.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        if ctx.resilient_parsing:  # a shell asks how a word may go on
            _offer_files(command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """From the table, where click would import every command to ask for its first sentence."""
        from click.shell_completion import CompletionItem

        named = {name: does for name, does in COMMANDS.items() if name.startswith(incomplete)}
        found = [CompletionItem(name, help=does) for name, does in named.items()]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table, where click would import every command to ask for its first sentence."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Whether `--json` is among them is needed before anything goes wrong."""
        asked_for(ctx, args)
        interrupts.on_end(lambda: _say_interrupted(ctx))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Turn an `Error` into text, a document if that was asked for, and an exit code."""
        try:
            return super().invoke(ctx)
        except Error as error:
            _fail(ctx, type(error).__name__, str(error), error.hint, error.exit_code)
        except BrokenPipeError:
            raise  # whoever read the output has seen enough
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _fail(ctx, type(error).__name__, f"{where}{error.strerror or error}")
        except MemoryError:
            _fail(ctx, "MemoryError", "out of memory", "fewer --threads need smaller buffers")
        except click.ClickException as error:
            say_failure(ctx, failure("UsageError", error.format_message(), "", error.exit_code))
            raise
        except (KeyboardInterrupt, click.Abort):
            _say_interrupted(ctx)
            raise


def _offer_files(command: click.Command) -> None:
    """Words for models may be names of the Hub, so they are no paths to click; files are what can be offered."""
    for param in command.params:
        if param.type is click.STRING and (isinstance(param, click.Argument) or param.metavar == "MODEL"):
            param.type = click.Path()


def _print_versions(ctx: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from requant.cli.versions import versions_text

        say(versions_text())
        ctx.exit()


def _say_interrupted(ctx: click.Context) -> None:
    say_failure(ctx, failure("Interrupted", interrupts.last_line(), "", interrupts.CODE))


def _fail(ctx: click.Context, kind: str, message: str, hint: str = "", code: int = Error.exit_code) -> NoReturn:
    """Say what is wrong, to people and to programs."""
    say_failure(ctx, failure(kind, message, hint, code))
    complain(message, hint)
    ctx.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_versions,
    help="Show the version, and those of what results may depend on.",
)
def cli() -> None:
    """Convert, requantize, merge, inspect and check language-model files.

    \b
    requant convert ./SmolLM2-135M smollm2.gguf --to Q4_K_M
    requant merge ./a ./b --method slerp --t 0.5 -o ./merged
    requant inspect smollm2.gguf
    requant check smollm2.gguf --prompt "The capital of France is"

    Exit codes: 0 done; 1 other failure (of diff: the models differ), 2 damaged file or wrong arguments, 3 not
    supported, 4 the request cannot be carried out, 5 a check failed, 130 interrupted.
    """


def main() -> None:
    """Run a command and end the process."""
    _open_streams()
    interrupts.install()
    code = _run()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1  # whoever read the output is gone
    remove_temporary_folders()
    # every file is closed; taking the compiler apart piece by piece would take another fifth of a second
    os._exit(code)


def _open_streams() -> None:
    """Standard streams for a process that was started without: else the first file opened would be one of them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # takes the lowest number that is free, which is the stream's own, and keeps it
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    take_any_text()


def _run() -> int:
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        show_usage(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _interrupted()
    except Exception:
        if interrupts.came():  # and was turned into something else, as extension modules do
            return _interrupted()
        raise
    return code if isinstance(code, int) else 0


def _interrupted() -> int:
    remark(interrupts.last_line())
    return interrupts.CODE


if __name__ == "__main__":
    main()
