"""The command line of ``eval_os.py``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mmclvqa.clove import experiment_paths as experiments
from mmclvqa.clove.data_root import existing_root
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import atomic_write, check_output_file
from mmclvqa.clove.tasks import default_data_root
from mmclvqa.clove.text import run_command
from mmclvqa.evaluation.chance import ChanceResult, chance_level
from mmclvqa.evaluation.results import EvaluationResult

STANDARD_OUTPUT = "-"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code, see :func:`run_command`."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    unknown = [word for word in rest if word.startswith("-") or "=" not in word]
    if unknown or (rest and args.command == "chance"):
        parser.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
    if args.json and args.csv and Path(args.json).absolute() == Path(args.csv).absolute():
        parser.error(f"--json and --csv both name {args.csv}")
    args.overrides = tuple(rest)
    return run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    for option, path in (("--json", args.json), ("--csv", args.csv)):
        check_output_file(option, None if path == STANDARD_OUTPUT else path)
    result = evaluate_chance(args.cl_setting) if args.command == "chance" else _evaluate(args)
    _output(result, args)


def save_folder(save_dir: str) -> str:
    """Return the folder of all models: ``save`` below the published ``save_dir``, or a path that already ends in it.

    Raises:
        DataError: ``save_dir`` is ``$ROOT``, with the models further below.
    """
    path, name = Path(save_dir), Path(experiments.SAVE).name
    below = path / experiments.SAVE
    if below.is_dir() and not (path / name).is_dir():
        raise DataError(f"save_dir={save_dir}: the models are in {below}; did you mean {below.parent}?")
    return str(path if path.name == name else path / name)


def evaluate_chance(cl_setting: str) -> ChanceResult:
    """Compute the chance level on the data of ``$CLOVE_ROOT``.

    Raises:
        CloveError: no such setting, or the data cannot be used.
    """
    return chance_level(existing_root(default_data_root()), cl_setting)


def print_result(result: EvaluationResult) -> None:
    """Print a result's table and the lines below it."""
    print(result.table())
    print()
    for line in result.lines():
        print(line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python eval_os.py",
        description="Evaluate answer models on CLOVE. $CONFIG names the folder of configurations (default EXP_CONFIG), "
        "$CLOVE_ROOT the data; key=value arguments at the end override the configuration as for mmf_run.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sweep = commands.add_parser("sweep", help="every checkpoint of a run on every task: the accuracy matrix")
    _add_output_arguments(sweep)
    sweep.add_argument("--task_order", required=True, metavar="ORDER", help="such as oarlks or shape,colour,count")
    sweep.add_argument("--setting_idx", type=int, metavar="N", help="index of the order, checked if given")
    sweep.add_argument("--exp", required=True, help="name of the experiment's folder: ft, ...")
    sweep.add_argument("--test_stand_alone", action="store_true", help="evaluate the single-task model of every task")
    sweep.add_argument(
        "--test_reg",
        action="store_true",
        help="also use the run's own checkpoint for the first task (EWC, online EWC, MAS, k-means, DER++)",
    )
    sweep.add_argument("--partial", action="store_true", help="evaluate the existing checkpoints of an unfinished run")
    _add_model_arguments(sweep)
    multitask = commands.add_parser("multitask", help="the multitask model on every task")
    _add_output_arguments(multitask)
    _add_model_arguments(multitask)
    chance = commands.add_parser("chance", help="accuracy of always giving the most frequent train answer")
    _add_output_arguments(chance)
    return parser


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cl_setting", required=True, metavar="SETTING", help="name, or path of its YAML file")
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON; - prints only that")
    parser.add_argument("--csv", metavar="FILE", help="also write the table as CSV; - prints only that")


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = f"{parser.prog} --cl_setting SETTING ... [key=value ...]"
    parser.add_argument("--save_dir", required=True, metavar="DIR", help="$ROOT/exp/clvqa, or its folder save")
    parser.add_argument(
        "--model_name", default=experiments.MODEL, metavar="NAME",
        help=f"registered answer model (default: {experiments.MODEL}); env.user_dir=FILE registers your own",
    )  # fmt: skip
    parser.add_argument("--device", help="auto (default), cpu, cuda, cuda:<n> or the number of a GPU")


def _evaluate(args: argparse.Namespace) -> EvaluationResult:
    # Its libraries take as long to import as all others together.
    from mmclvqa.evaluation.sweep import EvaluationConfig, check_index, evaluate_multitask, evaluate_sweep

    config = EvaluationConfig.from_environment(args.device, args.overrides, args.model_name)
    save = save_folder(args.save_dir)
    if args.command == "multitask":
        return evaluate_multitask(args.cl_setting, save, config)
    check_index(args.cl_setting, args.setting_idx, args.task_order)
    return evaluate_sweep(
        args.cl_setting,
        args.task_order,
        args.exp,
        save,
        config,
        stand_alone=args.test_stand_alone,
        regularised=args.test_reg,
        partial=args.partial,
    )


def _output(result: EvaluationResult, args: argparse.Namespace) -> None:
    """Write the files that ``--json`` and ``--csv`` name, and print the result or, for ``-``, only that format."""
    formats = {
        args.json: lambda: json.dumps(result.as_json(), indent=1, ensure_ascii=False) + "\n",
        args.csv: result.csv,
    }
    for path, text in formats.items():
        if path and path != STANDARD_OUTPUT:
            with atomic_write(path) as file:
                file.write(text())
    if STANDARD_OUTPUT in formats:
        sys.stdout.write(formats[STANDARD_OUTPUT]())
    else:
        print_result(result)
