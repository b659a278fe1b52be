"""``python -m mmclvqa.clove``: make, check, describe and fetch CLOVE data."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from mmclvqa.clove.errors import CloveError

COMMANDS = {
    "mini": ("mmclvqa.clove.mini.cli", "generate clove-mini, a small world with every format of CLOVE"),
    "check": ("mmclvqa.clove.check", "verify a data root; exit 1 with every finding listed"),
    "stats": ("mmclvqa.clove.stats", "sizes, answers and input lengths by task"),
    "download": ("mmclvqa.clove.download", "fetch the published data and features"),
}
"""Commands: the module with ``add_arguments(parser)`` and ``run(args) -> int``, and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0, 1 when something a user can mend is wrong, 130 when interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m mmclvqa.clove",
        description="The CLOVE benchmark: make, check, describe and fetch its data.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = None
    for name, (module, text) in COMMANDS.items():
        command = subparsers.add_parser(name, help=text, description=text)
        if argv[:1] == [name]:
            # Only the command that runs is imported: the others' libraries take their time.
            chosen = importlib.import_module(module)
            chosen.add_arguments(command)
            run = chosen.run
    args = parser.parse_args(argv)
    try:
        return run(args)
    except BrokenPipeError:
        # Whoever read our output has had enough, as `head` does; the flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CloveError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
