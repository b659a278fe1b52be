"""Writes the run scripts: which there are, what they are called, where they go."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mmclvqa.clove.errors import CloveError
from mmclvqa.clove.files import atomic_write
from mmclvqa.clove.tasks import REPORTED_ORDERS, SETTINGS, order_index
from mmclvqa.scripts import methods, parts

FOLDER = "run_scripts/mmclvqa"


def order_scripts(
    setting: str,
    order: str,
    rates: Iterable[float] = methods.RATES,
    sample_rates: Sequence[float] = methods.SAMPLE_RATES,
) -> Iterator[tuple[str, str]]:
    """Path (relative to the project) and text of every script for one task order.

    Args:
        setting: ``functional`` or ``scene``.
        order: the task order.
        rates: SRM's replays per real record.
        sample_rates: replays per real record where they are real ones drawn at random.

    Raises:
        TaskError: no such setting, or an illegal task order.
    """
    start, end = f"{FOLDER}/{setting}/{setting[0].upper()}_run", f"S{order_index(setting, order)}.sh"
    yield f"{start}_stand_alone_{end}", methods.stand_alone(setting, order)
    for method in methods.compared(tuple(sample_rates)):
        yield f"{start}_{method.experiment}_{end}", methods.method_script(method, setting, order)
    for rate in rates:
        yield f"{start}_{parts.LANGUAGE_MODEL}_wogt_wtt_{rate}_{end}", methods.srm_replay(setting, order, rate)


def all_scripts() -> Iterator[tuple[str, str]]:
    """Path and text of every script that is kept in the repository."""
    for setting in SETTINGS:
        for order in REPORTED_ORDERS[setting]:
            yield from order_scripts(setting, order)
        yield f"{FOLDER}/multitask/{setting[0].upper()}_multitask.sh", methods.multitask(setting)


def write_scripts(project: str | os.PathLike[str], scripts: Iterable[tuple[str, str]]) -> int:
    """Write scripts below ``project``, executable; gives how many.

    Raises:
        OSError: a file cannot be written; those before it are complete.
    """
    count = 0
    for name, text in scripts:
        path = Path(project, name)
        with atomic_write(path) as file:
            file.write(text)
        path.chmod(path.stat().st_mode | 0o111)
        count += 1
    return count


def main(project: Path, argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Returns:
        The exit code: 0, or 1 when something a user can mend is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python generate_run_scripts.py",
        description=f"Write the run scripts into {FOLDER}: all of the reported orders, or those of one order.",
    )
    parser.add_argument("--cl_setting", choices=SETTINGS, help="with --task_order: which six tasks")
    parser.add_argument("--task_order", metavar="ORDER", help="any order, such as lkosra; alone of all to be written")
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        metavar="RATE",
        default=methods.RATES,
        help="with --task_order: SRM's replays per real record (default: the published ones)",
    )
    parser.add_argument("--sample_rates", type=float, nargs="+", metavar="RATE", default=methods.SAMPLE_RATES,
                        help="with --task_order: random replays per real record (default: 0.1 0.02)")  # fmt: skip
    args = parser.parse_args(argv)
    if bool(args.cl_setting) != bool(args.task_order):
        parser.error("--cl_setting and --task_order go together")
    if any(not 0 < rate < float("inf") for rate in (*args.rates, *args.sample_rates)):
        parser.error("rates are numbers above 0")
    try:
        if args.task_order is None:
            scripts = all_scripts()
        else:
            scripts = order_scripts(args.cl_setting, args.task_order, args.rates, args.sample_rates)
        count = write_scripts(project, scripts)
    except (CloveError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(f"{count} scripts written below {FOLDER}")
    return 0
