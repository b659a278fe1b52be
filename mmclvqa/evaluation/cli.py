"""The command line of ``eval_os.py``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmclvqa.clove import experiments as places
from mmclvqa.clove.errors import CloveError
from mmclvqa.clove.tasks import SETTINGS

if TYPE_CHECKING:
    from mmclvqa.evaluation.chance import Chance
    from mmclvqa.evaluation.setup import Setup

STANDARD_OUTPUT = "-"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Returns:
        The exit code: 0; 1 when something a user can mend is wrong; 130 after Ctrl-C.
    """
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    strange = [word for word in rest if word.startswith("-") or "=" not in word]
    if strange or (rest and args.command == "chance"):
        parser.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    args.words = tuple(rest)
    try:
        _COMMANDS[args.command](args)
    except (CloveError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def check_model(name: str) -> None:
    """The one model there is.

    Raises:
        CloveError: another name.
    """
    if name != places.MODEL:
        raise CloveError(f"model_name {name}: the model here is {places.MODEL}")


def save_folder(save_dir: str | os.PathLike[str]) -> str:
    """The folder of all models: ``save`` below the published tool's ``save_dir``, or the path that ends in it."""
    path, name = Path(save_dir), Path(places.SAVE).name
    return str(path if path.name == name else path / name)


def chance_level(cl_setting: str) -> Chance:
    """The chance level on the data of ``$CLOVE_ROOT``.

    Raises:
        CloveError: no such setting, or the data cannot be used.
    """
    from mmclvqa.clove.layout import existing_root
    from mmclvqa.evaluation.chance import chance
    from mmclvqa.evaluation.setup import Setup

    return chance(existing_root(Setup.of().data_root), cl_setting)


def show(result: Any) -> None:
    """Print a result's table and lines."""
    print(result.table())
    print()
    for line in result.lines():
        print(line)


def one_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python eval_os.py",
        description="Evaluate UniVQA on CLOVE. $CONFIG names the folder of configurations (default EXP_CONFIG), "
        "$CLOVE_ROOT the data; key=value words at the end go to the configuration as with mmf_run.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sweep = commands.add_parser("sweep", help="every checkpoint of a run on every task: the accuracy matrix")
    _common(sweep)
    sweep.add_argument("--task_order", required=True, metavar="ORDER", help="such as oarlks")
    sweep.add_argument("--setting_idx", type=int, metavar="N", help="the order's index; checked where given")
    sweep.add_argument("--exp", required=True, help="the method, as its folder is called: ft, ...")
    sweep.add_argument(
        "--test_stand_alone", action="store_true", help="take all checkpoints from the stand-alone models"
    )
    sweep.add_argument("--test_reg", action="store_true", help="take the first task's checkpoint from the run, too")
    sweep.add_argument("--partial", action="store_true", help="evaluate what there is of a run that is not finished")
    _model(sweep)
    multitask = commands.add_parser("multitask", help="the model of all tasks at once on every task")
    _common(multitask)
    _model(multitask)
    chance = commands.add_parser("chance", help="always the most frequent train answer")
    _common(chance)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cl_setting", required=True, choices=SETTINGS)
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON; - prints that alone")
    parser.add_argument("--csv", metavar="FILE", help="also write the table as CSV; - prints that alone")


def _model(parser: argparse.ArgumentParser) -> None:
    parser.usage = f"{parser.prog} --cl_setting SETTING ... [key=value ...]"
    parser.add_argument("--save_dir", required=True, metavar="DIR", help="$ROOT/exp/clvqa, or its folder save")
    parser.add_argument("--model_name", default=places.MODEL)
    parser.add_argument("--device", help="auto (default), cpu, cuda, cuda:<n> or the number of a GPU")


def _sweep(args: argparse.Namespace) -> None:
    check_model(args.model_name)
    from mmclvqa.evaluation.sweep import check_index, sweep

    check_index(args.cl_setting, args.setting_idx, args.task_order)
    result = sweep(
        args.cl_setting,
        args.task_order,
        args.exp,
        save_folder(args.save_dir),
        _setup(args),
        stand_alone=args.test_stand_alone,
        regularised=args.test_reg,
        partial=args.partial,
    )
    _give(result, args)


def _multitask(args: argparse.Namespace) -> None:
    check_model(args.model_name)
    from mmclvqa.evaluation.sweep import multitask

    _give(multitask(args.cl_setting, save_folder(args.save_dir), _setup(args)), args)


def _chance(args: argparse.Namespace) -> None:
    _give(chance_level(args.cl_setting), args)


def _setup(args: argparse.Namespace) -> Setup:
    from mmclvqa.evaluation.setup import Setup

    return Setup.of(args.device, args.words)


def _give(result: Any, args: argparse.Namespace) -> None:
    import json

    from mmclvqa.clove.files import atomic_write
    from mmclvqa.evaluation.outcome import csv_text

    texts = {
        args.json: lambda: json.dumps(result.as_json(), indent=1, ensure_ascii=False) + "\n",
        args.csv: lambda: csv_text(*result.rows()),
    }
    for path, text in texts.items():
        if path and path != STANDARD_OUTPUT:
            with atomic_write(path) as file:
                file.write(text())
    if STANDARD_OUTPUT in texts:
        sys.stdout.write(texts[STANDARD_OUTPUT]())
    else:
        show(result)


_COMMANDS = {"sweep": _sweep, "multitask": _multitask, "chance": _chance}
