"""``python -m mmclvqa.clove``: generate, import, check, describe and download data."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from functools import partial

from mmclvqa.clove.text import run_command

COMMANDS = {
    "mini": ("mmclvqa.mini.generator", "generate clove-mini, a small data set in every format of CLOVE"),
    "import": ("mmclvqa.clove.importing", "turn VQA v2, GQA or TextVQA into custom tasks"),
    "check": ("mmclvqa.clove.check", "verify a data root; exit with code 1 if problems are found"),
    "stats": ("mmclvqa.clove.stats", "sizes, answers and input lengths by task"),
    "download": ("mmclvqa.clove.download", "download the published data and features"),
}
"""Commands: the module with ``add_arguments(parser)`` and ``run(args) -> int``, and a description."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0; 1 after an error that a user can fix, or problems in the data; 130 when interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m mmclvqa.clove",
        description="The CLOVE benchmark: generate, import, check, describe and download data.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module_name, text) in COMMANDS.items():
        command = subparsers.add_parser(name, help=text, description=text)
        if argv[:1] == [name]:
            # Only the module of the selected command is imported, because importing libraries takes time.
            module = importlib.import_module(module_name)
            module.add_arguments(command)
            # Flags may stand between the other arguments, which parsers with subparsers do not allow.
            args = command.parse_intermixed_args(argv[1:])
            return run_command(partial(module.run, args))
    parser.parse_args(argv)
    parser.error("the command must come first")


if __name__ == "__main__":
    sys.exit(main())
