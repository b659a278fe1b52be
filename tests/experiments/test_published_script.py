"""The published commands of symbolic replay, run as they are on data of CLOVE's shape with the full-size model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmclvqa.clove.experiment_paths import replay_file, srm_folder, srm_root
from mmclvqa.clove.records import load_records, save_records
from mmclvqa.clove.tasks import GENERATED_SUFFIX, parse_order

COMMANDS = Path(__file__).parents[1] / "fixtures" / "published_commands.json"
WORLD, METHOD, RATE = "functional oarlks 1", "distilgpt2 use_gt=False task_token=True 1.5", "0.1"
SHAPE = ("--train", "12", "--val", "4", "--regions", "100", "--feature-dim", "2048")
RANDOM_WEIGHTS = (
    "model_config.unicl.text_bert_init_from_bert_base=false model_config.unicl.fc7.weights_file=null "
    "model_config.unicl.fc7.bias_file=null"
)
APPENDED = (
    "training.max_updates=2 training.evaluation_interval=2 training.num_workers=0 training.batch_size=2 "
    f"{RANDOM_WEIGHTS}"
)
"""What a wrapper adds to every mmf_run: few updates, and random initial weights."""


def write_replays(data: Path, root: Path) -> None:
    """Replay files as SRM leaves them, made of real records."""
    order = parse_order("functional", "oarlks")
    folder = root / srm_root("functional") / srm_folder("distilgpt2", "functional", "oarlks")
    for number, current in enumerate(order):
        for past in order[:number]:
            records = load_records(data / past.annotation_path("train"))
            generated = [record | {"stage": past.name + GENERATED_SUFFIX, "feature_path": None} for record in records]
            save_records(folder / replay_file("oarlks", past, current), generated)


@pytest.mark.long
def test_a_published_srm_script_ends_with_the_closing_lines(project: Path, tmp_path: Path) -> None:
    data, root, programs = tmp_path / "clove", tmp_path / "experiments", tmp_path / "bin"
    subprocess.run([sys.executable, "-m", "mmclvqa.clove", "mini", str(data), *SHAPE], check=True, timeout=600)
    write_replays(data, root)
    programs.mkdir()
    for name, words in {"mmf_run": f'-m mmclvqa.cli "$@" {APPENDED}', "python": '"$@"'}.items():
        (programs / name).write_text(f"#!/bin/sh\nexec '{sys.executable}' {words}\n")
        (programs / name).chmod(0o755)

    published = json.loads(COMMANDS.read_text())[WORLD]
    commands = [published["stand_alone"]["mmf_run"][0], *published[METHOD]["mmf_run"]]
    lines = [f"ROOT={root}", "DEVICE=0", "set -e"]
    # The published script leaves brackets unquoted; with no file of such a name the shell passes them on.
    lines += [" ".join(("CUDA_VISIBLE_DEVICES=$DEVICE mmf_run", *words)) for words in commands]
    (sweep,) = published[METHOD]["stage_sweep"]
    lines.append(f"python -c 'from eval_os import *; stage_sweep({sweep})'")
    script = "\n".join(lines).replace("_1.5/", f"_{RATE}/").replace('_1.5"', f'_{RATE}"')
    script = script.replace("restore_rate=1.5", f"restore_rate={RATE}")

    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "CLOVE_ROOT": str(data), "PYTHONPATH": str(project),
        "MMF_ARGS": RANDOM_WEIGHTS,
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", script], cwd=project, env=environment, capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    closing = done.stdout.strip().splitlines()[-3:]
    for line, name in zip(closing, ("Final acc", "Backward transfer", "Forgetting"), strict=True):
        assert line.startswith(f"==> textvqa_accuracy | {name}: [")
