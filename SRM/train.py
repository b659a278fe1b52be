"""Train SRM along a task order and generate its replay files; see ``python SRM/train.py --help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    # Run as a script, Python puts this folder on its path instead of the one that contains both packages.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from mmclvqa.clove.text import run_command  # noqa: E402
from mmclvqa.lazy import prepare_libraries  # noqa: E402
from mmclvqa.process_exit import run_program  # noqa: E402
from SRM.data import input_files  # noqa: E402
from SRM.folder import RunFolder  # noqa: E402
from SRM.settings import environment_rank, parse  # noqa: E402


def main(argv: Sequence[str]) -> int:
    """Run a command line.

    Returns:
        The exit code: 0 for success, 1 for an error of the user's input or of the file system, 130 when interrupted.
    """

    def run() -> int:
        settings = parse(argv)
        input_files(settings)
        RunFolder(settings).check_results()
        prepare_libraries()
        # Importing torch and transformers takes seconds, so it follows --help and the checks of flags and paths.
        from SRM.run import launch

        return launch(settings, argv)

    return run_command(run, "run the same command again to resume", silent=environment_rank()[0] != 0)


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
