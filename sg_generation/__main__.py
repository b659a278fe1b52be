"""Sample scene-graph prompts from the training records of a setting: ``python -m sg_generation --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmclvqa.clove.data_root import existing_root, prompts_path
from mmclvqa.clove.errors import CloveError
from mmclvqa.clove.files import check_output_file
from mmclvqa.clove.prompts import PUBLISHED_PROMPTS, save_prompts, setting_prompts
from mmclvqa.clove.tasks import find_setting
from mmclvqa.clove.text import positive, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Returns:
        The exit code: 0; 1 after an error that a user can fix; 130 when interrupted.
    """
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    root = existing_root(args.data_dir)
    setting = find_setting(args.setting).name
    out = Path(args.out) if args.out else root / prompts_path(setting)
    if args.out is None and out.exists():
        raise CloveError(f"{out}: already exists; pass it as --out to replace it, or name another file")
    check_output_file("--out", args.out)
    prompts = setting_prompts(root, setting, args.per_task, args.seed)
    save_prompts(out, prompts)
    for name, task_prompts in prompts.items():
        print(f"{name}: {len(task_prompts)} prompts, such as {' | '.join(task_prompts[0])}")
    print(f"written to {out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sg_generation",
        description="Sample scene-graph prompts for every task of a setting from statistics of its training records.",
    )
    parser.add_argument("--setting", required=True, help="the setting: its name, or the path of its YAML file")
    parser.add_argument("--out", metavar="FILE",
                        help="JSON file to write (default: scene_graph_prompts/<setting>.json in the data root, which "
                             "must not exist yet)")  # fmt: skip
    parser.add_argument("--data_dir", metavar="DIR", help="the data root (default: $CLOVE_ROOT)")
    parser.add_argument("--per_task", type=positive, default=PUBLISHED_PROMPTS, metavar="N",
                        help="prompts per task (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all draws (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
