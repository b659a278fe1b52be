"""Train SRM along a task order and write its replay files: ``python SRM/train.py --help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    # Run as a script: Python then has this folder on its path instead of the one that holds both packages.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from mmclvqa.clove.errors import CloveError  # noqa: E402
from mmclvqa.process_exit import INTERRUPTED, run_program  # noqa: E402
from SRM.settings import environment_rank, parse  # noqa: E402


def main(argv: Sequence[str]) -> int:
    """Run one command line.

    Returns:
        The exit code: 0, 1 when something a user can mend is wrong, 130 when interrupted.
    """
    try:
        settings = parse(argv)
        # Only now: torch and transformers take seconds, which --help and a wrong flag should not wait for.
        from SRM.launch import launch

        return launch(settings, argv)
    except (CloveError, OSError) as error:
        if environment_rank()[0] == 0:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
