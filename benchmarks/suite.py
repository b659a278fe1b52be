"""Runs all comparisons of ``benchmarks/`` on the CPU at reduced size and checks their ratios: ``make bench``.

Every ratio is the time of the baseline divided by that of this project, both measured alternately in the same run
(medians of 3), so that it depends little on the machine. ``reference.json`` holds the ratios that are expected. The
exit code is 1 if a ratio fell by more than a third, has no reference, or could not be measured.

    python benchmarks/suite.py [--only NAME ...] [--reference FILE] [--update]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import srm, univqa  # noqa: E402
from benchmarks.comparison import run_python  # noqa: E402
from mmclvqa.clove.errors import DataError  # noqa: E402
from mmclvqa.clove.experiment_paths import FINE_TUNING, SAVE, final_weights  # noqa: E402
from mmclvqa.clove.files import read_json, write_json  # noqa: E402
from mmclvqa.clove.text import one_line  # noqa: E402
from mmclvqa.evaluation.sweep import checkpoints  # noqa: E402

REFERENCE = Path(__file__).with_name("reference.json")
LARGEST_FALL = 1 / 3
REPEATS = 3
run = partial(run_python, OMP_NUM_THREADS="1")
CPU = torch.device("cpu")
LOADING_WIDTH = 512


def univqa_ratios(size: str) -> dict[str, float]:
    """Measure UniVQA's greedy decoding and training step."""
    inputs, loss_mask = univqa.clove_batch(2)
    rows = univqa.measure(univqa.build(size), inputs, loss_mask, None, REPEATS)
    return {f"UniVQA {row['what']}": row["ratio"] for row in rows}


def srm_ratios(size: str) -> dict[str, float]:
    """Measure SRM's training and generation."""
    measured = srm.measure(size, CPU, REPEATS, batches=2, prompts=48, longest=60)
    return {f"SRM {name}": rates["ratio"] for name, rates in measured.items()}


def loading_ratios(size: str) -> dict[str, float]:
    """Measure data loading with 100 regions per image."""
    with tempfile.TemporaryDirectory() as folder:
        data, result = Path(folder, "data"), Path(folder, "loading.json")
        shape = ["--images", "100", "--regions", "100", "--feature-dim", str(LOADING_WIDTH)]
        run("-m", "mmclvqa.clove", "mini", str(data), "--train", "400", "--val", "16", *shape)
        options = ["--feature-dim", str(LOADING_WIDTH), "--repeats", str(REPEATS), "--json", str(result)]
        run("benchmarks/loading.py", str(data), "--compare", *options)
        return {"data loading": read_json(result)["ratio"]}


def sweep_ratios(size: str) -> dict[str, float]:
    """Measure the sweep over an experiment in which all checkpoints are those of one update."""
    with tempfile.TemporaryDirectory() as folder:
        data, trained, root, result = (Path(folder, name) for name in ("data", "trained", "root", "sweep.json"))
        run("-m", "mmclvqa.clove", "mini", str(data), "--train", "32", "--val", "16")
        overrides = ["model=unicl", "dataset=clvqa", f"env.clove_root={data}", "training.device=cpu"]
        config = "config=EXP_CONFIG/mini/functional/cl_object_unicl_standalone.yaml"
        train = ["run_type=train", "training.max_updates=1", f"env.save_dir={trained}"]
        run("-m", "mmclvqa.cli", config, *overrides, *train)
        for file in checkpoints("functional", "oarlks", FINE_TUNING, str(root / SAVE)).values():
            Path(file).parent.mkdir(parents=True)
            shutil.copy(final_weights(str(trained)), file)
        run("benchmarks/sweep.py", str(root), "--rounds", str(REPEATS), "--json", str(result), CLOVE_ROOT=str(data))
        return {"sweep": read_json(result)["ratio"]}


BENCHMARKS: dict[str, Callable[[str], dict[str, float]]] = {
    "univqa": univqa_ratios,
    "srm": srm_ratios,
    "loading": loading_ratios,
    "sweep": sweep_ratios,
}


def problem(ratio: float, reference: float | None) -> str | None:
    """Return what is wrong with a ratio, or None if it is high enough."""
    if reference is None:
        return "no reference; --update adds it"
    if ratio < (1 - LARGEST_FALL) * reference:
        return f"fell by {1 - ratio / reference:.0%}"
    return None


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME",
                        help=", ".join(BENCHMARKS))  # fmt: skip
    parser.add_argument("--size", choices=("small", "tiny"), default="small", help="size of the models; tiny for tests")
    parser.add_argument("--reference", type=Path, default=REFERENCE, metavar="FILE", help="JSON file of ratios by name")
    parser.add_argument("--update", action="store_true", help="write the measured ratios to the reference file")
    args = parser.parse_args(words)
    try:
        references: dict[str, float] = read_json(args.reference)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

    # With several threads, another process on the same cores would slow down each side by another factor.
    torch.set_num_threads(1)
    ratios: dict[str, float] = {}
    failed = False
    print(f"{'comparison':24} {'ratio':>7} {'reference':>9}")
    for name in args.only:
        begun = time.perf_counter()
        try:
            measured = BENCHMARKS[name](args.size)
        except Exception as error:
            print(f"{name:24} error: {type(error).__name__}: {one_line(error)}", flush=True)
            failed = True
            continue
        for what, ratio in measured.items():
            reference = references.get(what)
            wrong = None if args.update else problem(ratio, reference)
            failed |= wrong is not None
            expected = "–" if reference is None else f"{reference:.1f}×"
            print(f"{what:24} {ratio:6.1f}× {expected:>9}  {wrong or ''}".rstrip(), flush=True)
        ratios |= measured
        print(f"{'':24} ({name}: {time.perf_counter() - begun:.0f} s)", file=sys.stderr, flush=True)
    if args.update:
        write_json(args.reference, references | {what: round(ratio, 2) for what, ratio in ratios.items()})
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
