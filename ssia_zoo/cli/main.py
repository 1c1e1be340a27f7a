"""The command `ssia-zoo`.

Exit status: 0 done, 1 failed, fully or partly, 2 wrong command line, 130 stopped by Ctrl-C, 141 the reader of the
output closed it (as `| head` does), 143 stopped by SIGTERM. Every status but 0 and 141 comes with a line on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import tyro

from ssia_zoo.allocator import keep_freed_memory
from ssia_zoo.cli.answers import embed
from ssia_zoo.cli.app import app
from ssia_zoo.cli.arena import arena
from ssia_zoo.cli.comparison import compare
from ssia_zoo.cli.console import DONE, UsageError, replace_closed_streams, run
from ssia_zoo.cli.export import export
from ssia_zoo.cli.losses import check_loss
from ssia_zoo.cli.models import explain, predict, validate, verify
from ssia_zoo.cli.training import demo, finetune, train
from ssia_zoo.cli.weights import fetch, info, list_weights, publish
from ssia_zoo.errors import did_you_mean
from ssia_zoo.log import show_log
from ssia_zoo.version import __version__

# The modules of the commands import slow packages inside their functions, so that `--help` is fast.

_DESCRIPTION = """\
usage: ssia-zoo COMMAND ...

timm models trained with Self-Supervised Implicit Attention.

Start with:
  ssia-zoo list                           list the published weights
  ssia-zoo predict cat.jpg --model NAME   classify an image
  ssia-zoo app                            do that, and see where it looks, on a page
  ssia-zoo finetune photos/ --model NAME  train on your images, and look at a report
  ssia-zoo demo                           train, publish and load a small model, in 2 to 4 minutes
  ssia-zoo COMMAND --help                 show the flags of a command, with examples
  ssia-zoo --version                      print the version

A model is the name of a published weight, a timm name, a folder with
config.json and model.safetensors, or hf-hub:org/name.

Exit status:
  0    done
  1    failed, fully or partly; see stderr
  2    wrong command line
  130  stopped by Ctrl-C
  141  the reader of the output closed it, as `| head` does
  143  stopped by SIGTERM

Commands:"""

_COMMANDS: dict[str, Callable[..., int | None]] = {
    "train": train,
    "finetune": finetune,
    "list": list_weights,
    "info": info,
    "predict": predict,
    "embed": embed,
    "explain": explain,
    "app": app,
    "validate": validate,
    "compare": compare,
    "verify": verify,
    "fetch": fetch,
    "publish": publish,
    "export": export,
    "check-loss": check_loss,
    "arena": arena,
    "demo": demo,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: Words after `ssia-zoo`; those of the process if None.

    Returns:
        The exit status, as listed in this module's docstring.

    Raises:
        SystemExit: With 0 after `COMMAND --help`, with 2 for a wrong flag.
    """
    replace_closed_streams()
    words = list(sys.argv[1:] if args is None else args)
    for name, command in (("train", train), ("finetune", finetune)):
        if words[:1] == [name]:  # these parse their flags and handle signals and errors themselves
            return command(words[1:])
    show_log()
    keep_freed_memory()
    return run(lambda: _run_command(words))


def _run_command(words: list[str]) -> int | None:
    if words[:1] in (["-h"], ["--help"]):
        print(_help())
        return DONE
    if words == ["--version"]:
        print(f"ssia-zoo {__version__}")
        return DONE
    if not words:
        raise UsageError("no command given; `ssia-zoo --help` lists the commands")
    if words[0] not in _COMMANDS:
        hint = did_you_mean(words[0], _COMMANDS, "`ssia-zoo --help` lists the commands")
        raise UsageError(f"unknown command {words[0]!r}; {hint}")
    if words[0] == "arena":  # has commands of its own
        return arena(words[1:])
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    status: int | None = tyro.cli(_COMMANDS[words[0]], prog=f"ssia-zoo {words[0]}", args=words[1:], config=config)
    return status


def _help() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:{width}}  {(command.__doc__ or '').splitlines()[0]}" for name, command in _COMMANDS.items()]
    return "\n".join([_DESCRIPTION, *lines])
