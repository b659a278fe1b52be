"""Measures the speed-up of evaluating all pairs of a task order in one process instead of one ``mmf_run`` per pair.

It repeats the evaluation of the 36 pairs of a finished run with ``eval_os.py sweep``, and runs
``mmf_run run_type=val`` for one of these pairs, in several rounds whose medians count. The ratio is extrapolated to 36
runs. Results are written to a temporary folder.

    CLOVE_ROOT=... python benchmarks/sweep.py ROOT [--setting functional] [--order oarlks] [--exp ft] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from benchmarks.comparison import run_python  # noqa: E402
from mmclvqa.clove import experiment_paths as places  # noqa: E402
from mmclvqa.clove.errors import CloveError  # noqa: E402
from mmclvqa.clove.files import read_json, write_json  # noqa: E402
from mmclvqa.clove.tasks import SETTINGS, parse_order  # noqa: E402
from mmclvqa.evaluation.results import METRIC  # noqa: E402
from mmclvqa.evaluation.sweep import checkpoints  # noqa: E402


def accuracy(folder: Path) -> float:
    """Return the last accuracy in the results of a folder."""
    return read_json(folder / places.RESULTS_FILE)["evaluations"][-1]["metrics"][METRIC]


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Return the median seconds of the sweep and of one ``mmf_run``, and their ratio for all pairs.

    Raises:
        CloveError: the CLOVE setting is unknown, or the task order is illegal.
        RuntimeError: a program failed.
    """
    order = parse_order(args.setting, args.order)
    save = (args.root / places.SAVE).resolve()
    files = checkpoints(args.setting, args.order, args.exp, str(save))
    missing = [file for file in files.values() if not file.is_file()]
    if missing:
        raise CloveError(f"{missing[0]} is missing: the run is not finished")
    run = ["--cl_setting", args.setting, "--task_order", args.order, "--exp", args.exp]
    pairs = [(learned, tested) for learned in order for tested in order]
    rounds = min(args.rounds, len(pairs))
    sweeps, starts = [], []
    for number in range(rounds):
        learned, tested = pairs[number * len(pairs) // rounds]
        with tempfile.TemporaryDirectory() as folder:
            fresh, single = Path(folder, "save"), Path(folder, f"{learned.letter}2{tested.letter}")
            for file in files.values():  # the checkpoints without their results
                link = fresh / file.relative_to(save)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file)
            command = ["eval_os.py", "sweep", *run, "--save_dir", str(fresh), *args.words]
            sweeps.append(run_python(*command, CONFIG=args.config)[1])
            command = [
                *("-m", "mmclvqa.cli", "model=unicl", "dataset=clvqa", "run_type=val", f"env.save_dir={single}"),
                f"config={args.config}/{tested.setting}/cl_{tested.name}_unicl_standalone.yaml",
                *(f"checkpoint.resume_file={files[learned.letter]}", *args.words),
            ]
            starts.append(run_python(*command, CONFIG=args.config)[1])
            results = Path(places.run_folder(args.setting, args.order, f"val_{args.exp}", str(fresh)))
            swept = accuracy(results / f"{learned.sweep_key}2{tested.sweep_key}")
            if accuracy(single) != swept:
                sys.exit(f"error: {single.name}: accuracy {accuracy(single)} by mmf_run, {swept} by the sweep")
    sweep, start = statistics.median(sweeps), statistics.median(starts)
    return {"sweep": sweep, "start": start, "rounds": rounds, "pairs": len(pairs), "ratio": len(pairs) * start / sweep}


def main() -> None:
    """Measure and print the result in one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of experiments with a finished run")
    parser.add_argument("--setting", choices=SETTINGS, default="functional")
    parser.add_argument("--order", default="oarlks")
    parser.add_argument("--exp", default="ft", help="folder name of the method")
    parser.add_argument("--config", default="EXP_CONFIG/mini", metavar="DIR", help="folder of configuration files")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="sweeps, each followed by one mmf_run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the measurements to this file")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="configuration overrides for both")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    try:
        measured = measure(args)
    except (CloveError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(
        f"{measured['pairs']} pairs in one sweep: {measured['sweep']:.1f} s; "
        f"one run of mmf_run: {measured['start']:.1f} s (medians of {measured['rounds']}), "
        f"{measured['pairs']} of them {measured['pairs'] * measured['start']:.0f} s: "
        f"{measured['ratio']:.1f} times as long"
    )
    if args.json:
        write_json(args.json, measured)


if __name__ == "__main__":
    main()
