"""The entry point: finds the verb, runs it, and turns errors into one line and an exit code."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from scalerec._version import __version__
from scalerec.cli import (
    adapt,
    compress,
    demo,
    evaluate,
    export,
    federate,
    inspect,
    meta_train,
    plan,
    prepare,
    recommend,
    report,
    simulate,
    train,
    tune,
)
from scalerec.cli.options import Call
from scalerec.errors import ConfigError, ScalerecError, SchemaError

__all__ = ["app", "main"]

DONE, FAILED, USAGE = 0, 1, 2
# Typer brings its own Click in new versions and uses the package in old ones; the class is found
# through a name that both have.
UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="scalerec",
    help="Recommender models that grow: every verb takes a bundle or data and gives a bundle.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
VERBS = (
    *(prepare, simulate, train, federate, meta_train, adapt, compress, plan, tune),
    *(evaluate, recommend, export, inspect, report, demo),
)
for verb in VERBS:
    verb.register(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"scalerec {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole trace of an error; works in any place.")
    ] = False,
) -> None:
    """Recommender models that grow: every verb takes a bundle or data and gives a bundle."""


def main(arguments: Sequence[str] | None = None, *, is_member: bool = False) -> int:
    """Run the command line.

    Args:
        arguments: The words after the program's name; those of the process by default.
        is_member: Whether this is one of several processes that a launcher has started.

    Returns:
        0 if all went well, 1 if the work failed, 2 if the command was wrong.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        call = Call(tuple(words), is_member=is_member, debug=debug)
        code = app(words, prog_name="scalerec", standalone_mode=False, obj=call)
    except BaseException as error:  # the one door: every error becomes a line and a code
        if isinstance(error, SystemExit | GeneratorExit):
            raise
        if debug and not isinstance(error, typer.Exit):
            traceback.print_exc()
        return _explain(error, is_member=is_member)
    return code if isinstance(code, int) else DONE


def _explain(error: BaseException, *, is_member: bool) -> int:
    """Tell a person in one line what went wrong and what to do, and give the exit code."""
    code, text = FAILED, f"{type(error).__name__}: {error}; this is a defect: run with --debug"
    if isinstance(error, typer.Exit):
        return int(error.exit_code)
    if isinstance(error, UsageError):
        code, text = USAGE, _usage(error)
    elif isinstance(error, ConfigError | SchemaError):
        code, text = USAGE, str(error)
    elif isinstance(error, ScalerecError):
        text = str(error)
    elif isinstance(error, typer.Abort | KeyboardInterrupt):
        text = "interrupted"
    elif isinstance(error, BrokenPipeError):
        # The reader of our output went away, as `head` does; nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    elif isinstance(error, OSError):
        text = f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")
    told = text.rstrip(".").replace("\n", "\n  ")
    if is_member:
        from scalerec.distributed.member import tell_failure

        tell_failure(error, told)
    elif type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(text, err=True)
    else:
        typer.echo("error: " + told, err=True)
    return code


def _usage(error: Any) -> str:
    text = str(error.format_message())
    if error.ctx is None or type(error).__name__ == "NoArgsIsHelpError":
        return text
    return f"{text.rstrip('.')}; see: {error.ctx.command_path} --help"
