"""Entry point: find the command, run it, and turn every outcome into an exit status.

0 done, 2 the user's input is wrong, 130 interrupted, 1 anything else.
"""

import gc
import importlib
import signal
import sys

import click

from dna_ray import __version__
from dna_ray.errors import StoppedError, UserError, causes, nearest

COMMANDS = {
    "search": "Search the best network for a data set within cost limits.",
    "plan": "What a search will take, before anything runs.",
    "select": "The best architecture of a ratings table within cost limits, proven.",
    "evaluate": "Does a rating rank? Against accuracies, and against plain cost.",
    "verify": "Is the rating of a run true? Against paths of it that are trained alone.",
    "stability": "Does the rating of a run hang on its seed, its data, or its length?",
    "measure": "Latency on this machine, as a cost that a limit can be set on.",
    "report": "One page that shows what a run did and found.",
    "cost": "Exact parameters and multiply-adds of an architecture.",
    "space": "What a search space holds.",
}


class LazyGroup(click.Group):
    """A group that imports a command's module when it is called, so that help is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of their use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Import one command."""
        if cmd_name not in COMMANDS:
            raise UserError(
                f"a command must be known, but '{cmd_name}' is not; {nearest(cmd_name, COMMANDS)}"
            )
        command = importlib.import_module(f"dna_ray_cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dna-ray")
def cli() -> None:
    """Find the best small network for a data set and a device, with a proof.

    A trained teacher's features train the cells of a huge search space block by block; every path
    is rated, and the whole space is searched exactly within your limits.
    """


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends a run as Ctrl-C does
    try:
        cli.main(standalone_mode=False)
        status = 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        status = 0
    except (click.Abort, KeyboardInterrupt) as error:
        notes = getattr(error.__cause__ or error, "__notes__", ())
        click.echo("; ".join(("interrupted", *notes[:1])), err=True)
        status = 130
    except click.ClickException as error:
        _say("error", error.format_message())
        status = 2
    except UserError as error:
        _say("error", str(error))
        status = 2
    except Exception as error:
        status = failure(error)
    sys.stdout.flush()
    gc.freeze()  # or Python looks for garbage in all modules once more, for a second or two
    sys.exit(status)


def _say(kind: str, message: str) -> None:
    """One line on standard error, whatever the message holds."""
    click.echo(f"{kind}: {' '.join(message.split())}", err=True)


def failure(error: Exception) -> int:
    """Say what went wrong: a user's mistake that a worker found, or a failure with its place."""
    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, UserError):
            _say("error", str(cause.args[0]))
            return 2
    notes = [note for cause in chain for note in reversed(getattr(cause, "__notes__", ()))]
    place = f"{', '.join(dict.fromkeys(notes))}: " if notes else ""
    how = f"; to go on: {error}" if isinstance(error, StoppedError) else ""
    _say("failed", f"{place}{type(chain[-1]).__name__}: {chain[-1]}{how}")
    return 1
