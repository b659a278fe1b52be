"""Memory and speed of data loading at CLOVE's own shape.

Runs ``mmf_run`` for some updates on a data root made with
``python -m mmclvqa.clove mini DIR --train 20000 --val 3000 --images 5000 --regions 100 --feature-dim 2048``
and watches the memory of it and of its data loading processes; then iterates one epoch of the train
split with two workers and nothing else to do.

    python benchmarks/loading.py DIR [--updates 300] [--workers 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
MIB = 2**20
WORDS = (
    "config=EXP_CONFIG/mini/functional/cl_object_unicl_standalone.yaml",
    "model=unicl",
    "dataset=clvqa",
    "dataset_config.clvqa.max_features=100",
    "dataset_config.clvqa.feature_dim=2048",
    "model_config.unicl.obj.in_dim=2048",
    "model_config.unicl.obj.mmt_in_dim=2048",
    "training.batch_size=32",
)
LOAD = """
import argparse, sys, time
import mmclvqa
from mmf.common.registry import registry
from mmf.utils.configuration import Configuration
from mmclvqa.trainers.loaders import build_split

class Quiet:
    def write(self, *args, **kwargs):
        pass

config = Configuration(argparse.Namespace(opts=sys.argv[1:], config_override=None)).get_config()
for name, value in {"config": config, "writer": Quiet(), "seed": 1, "current_device": "cpu"}.items():
    registry.register(name, value)
split = build_split("train", config, seed=1)
batches = split.updates(epoch=1)
records, start = 0, None
for _, loaded in batches:
    batch, _ = next(loaded)
    if start is None:  # the workers have started
        start = time.perf_counter()
        continue
    records += len(batch.text)
print(records / (time.perf_counter() - start))
"""


def tree_memory(root: int) -> dict[str, int]:
    """Bytes of resident memory of a process and its children, and of the largest single one.

    ``rss`` counts pages that processes share once for each of them; ``pss`` counts them once.
    """
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry))
    todo, total = [root], {"rss": 0, "pss": 0, "largest": 0}
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        try:
            lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
        total["rss"] += sizes["Rss"]
        total["pss"] += sizes["Pss"]
        total["largest"] = max(total["largest"], sizes["Rss"])
    return total


def run_and_watch(words: list[str], environment: dict[str, str]) -> dict[str, list[int]]:
    """Run ``mmf_run`` and give the memory seen twice a second."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mmclvqa.cli", *words],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    seen: dict[str, list[int]] = {"rss": [], "pss": [], "largest": []}
    while process.poll() is None:
        for name, value in tree_memory(process.pid).items():
            seen[name].append(value)
        time.sleep(0.5)
    if process.returncode:
        sys.exit(process.returncode)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="data root in CLOVE's shape")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", help="also write the figures here")
    args = parser.parse_args()

    environment = {**os.environ, "CLOVE_ROOT": str(Path(args.root).absolute())}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), environment.get("PYTHONPATH")]))
    words = [*WORDS, f"training.num_workers={args.workers}"]
    with tempfile.TemporaryDirectory() as folder:
        # fc7's weights of a generated root have the features' width, which is what is asked for here.
        seen = run_and_watch(
            [*words, "run_type=train", f"training.max_updates={args.updates}", f"env.save_dir={folder}"], environment
        )
        environment["OMP_NUM_THREADS"] = "1"
        done = subprocess.run(
            [sys.executable, "-c", LOAD, *words, f"env.save_dir={folder}"],
            cwd=PROJECT,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
    half = len(seen["pss"]) // 2
    figures = {
        "records_per_second": float(done.stdout.split()[-1]),
        "workers": args.workers,
        "peak_rss_mib": max(seen["rss"]) / MIB,
        "peak_pss_mib": max(seen["pss"]) / MIB,
        "largest_process_mib": max(seen["largest"]) / MIB,
        "peak_pss_first_half_mib": max(seen["pss"][:half]) / MIB,
        "peak_pss_second_half_mib": max(seen["pss"][half:]) / MIB,
    }
    for name, value in figures.items():
        print(f"{name:28} {value:10.1f}" if isinstance(value, float) else f"{name:28} {value:10d}")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
