"""Sample scene-graph prompts from the training records of a setting: ``python -m sg_generation --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmclvqa.clove.errors import CloveError
from mmclvqa.clove.layout import existing_root, prompts_path
from mmclvqa.clove.prompts import save_prompts
from mmclvqa.clove.scene_graph_prompts import PUBLISHED_PROMPTS, setting_prompts
from mmclvqa.clove.tasks import SETTINGS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Returns:
        The exit code: 0, 1 when something a user can mend is wrong, 130 when interrupted.
    """
    args = _parser().parse_args(argv)
    try:
        root = existing_root(args.data_dir)
        out = Path(args.out) if args.out else root / prompts_path(args.setting)
        if args.out is None and out.exists():
            raise CloveError(f"{out}: is there already; --out names another file, or this one to replace it")
        prompts = setting_prompts(root, args.setting, args.per_task, args.seed)
        save_prompts(out, prompts)
    except (CloveError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    for name, listed in prompts.items():
        short = f", {args.per_task} were wanted" if len(listed) < args.per_task else ""
        print(f"{name}: {len(listed)} prompts{short}, such as {' | '.join(listed[0])}")
    print(f"written to {out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sg_generation",
        description="Sample scene-graph prompts for every task of a setting from statistics of its training records.",
    )
    parser.add_argument("--setting", required=True, choices=SETTINGS, help="which six tasks")
    parser.add_argument("--out", metavar="FILE", help="JSON file to write (default: the data root's own, if absent)")
    parser.add_argument("--data_dir", metavar="DIR", help="data root (default: $CLOVE_ROOT)")
    parser.add_argument("--per_task", type=_whole, default=PUBLISHED_PROMPTS, metavar="N",
                        help="prompts of each task (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of every draw (default: %(default)s)")
    return parser


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
