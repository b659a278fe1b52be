"""The command line: help at once, the published lines as they stand, no MMF."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from srm_runs import Runs

from SRM.settings import parse

PROJECT = Path(__file__).resolve().parents[2]
PUBLISHED = r"""
python train.py \
--cl_setting scene \
--task_seq abcdef \
--model_name distilgpt2 \
--model_dir_root $MODELS/exp/clvqa/QAG_seq/not_use_gt/QAG_scene_task_token \
--add_task_tokens \
--n_train_epochs 15
# training SRM under function-incremental setting, with task order o->a->r->l->k->s, using distilgpt2
python train.py \
--cl_setting functional \
--task_seq oarlks \
--model_name distilgpt2 \
--model_dir_root $MODELS/exp/clvqa/QAG_seq/not_use_gt/QAG_functional_task_token \ --add_task_tokens \
--n_train_epochs 15
"""


@pytest.mark.parametrize("where", ["root", "SRM"])
def test_help_is_there_within_four_seconds(where: str) -> None:
    script, cwd = ("SRM/train.py", PROJECT) if where == "root" else ("train.py", PROJECT / "SRM")
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=cwd, capture_output=True, text=True, check=True
    )
    assert time.monotonic() - begun <= 4
    for text in ("what:", "where:", "training:", "generation:", "--lm_lambda", "(default 0.25)", "TOKENS"):
        assert text in done.stdout


def test_the_published_defaults() -> None:
    settings = parse(
        ["--cl_setting", "scene", "--task_seq", "abcdef", "--model_dir_root", "x", "--data_dir", "."]
    )
    assert (settings.model_name, settings.n_train_epochs, settings.n_sg_seq, settings.lm_lambda) == (
        "distilgpt2",
        15,
        30,
        0.25,
    )
    assert (settings.learning_rate, settings.adam_epsilon, settings.weight_decay, settings.max_grad_norm) == (
        6.25e-5,
        1e-4,
        0.01,
        1.0,
    )
    assert (settings.n_warmup_ratio, settings.decay_style, settings.tokens_weight, settings.train_perc) == (
        0.005,
        "linear",
        5.0,
        1.0,
    )
    assert (settings.seed, settings.min_batch_size, settings.min_n_steps) == (42, 4, 1500)
    assert (settings.n_prompts, settings.n_replay, settings.max_length) == (15000, 5000, 512)
    assert (settings.max_n_epochs, settings.length_rule, settings.ignored) == (30, "published", ())


def test_flags_can_stand_in_a_file_with_comments() -> None:
    needed = ["--cl_setting", "scene", "--task_seq", "abcdef", "--model_dir_root", "x", "--data_dir", "."]
    settings = parse([*needed, f"@{PROJECT / 'SRM' / 'mini.args'}", "--n_train_epochs", "1"])
    assert settings.dropout == 0 and settings.learning_rate == 2e-3 and settings.n_train_epochs == 1


def test_published_flags_without_effect_change_nothing_but_are_named() -> None:
    needed = ["--cl_setting", "scene", "--task_seq", "abcdef", "--model_dir_root", "x", "--data_dir", "."]
    given = ["--seq_train_type", "lll", "--use_sep", "--gen_lm_sample_percentage", "0.05"]
    given += ["--lr_schedule", "warmup_linear", "--qp_margin", "0.5", "--model_arch", "decoder-only"]
    given += ["--tasks", "object", "attribute", "--replay_dir", "y"]
    settings = parse([*needed, *given])
    names = ("seq_train_type", "use_sep", "gen_lm_sample_percentage", "lr_schedule")
    assert settings.ignored == (*names, "qp_margin", "model_arch", "tasks", "replay_dir")
    assert settings.decisive() == parse(needed).decisive()


def test_a_share_of_the_records_has_a_root_of_its_own() -> None:
    needed = ["--cl_setting", "scene", "--task_seq", "abcdef", "--model_dir_root", "x/QAG/", "--data_dir", "."]
    assert parse([*needed, "--train_perc", "0.5"]).model_root == Path("x/QAG_tr0.5")
    assert parse([*needed, "--train_perc", "1"]).model_root == Path("x/QAG")


@pytest.mark.slow
def test_the_published_command_lines_run_as_they_stand(world: Path, tmp_path: Path) -> None:
    script = PUBLISHED.replace("python train.py", f"{shlex.quote(sys.executable)} train.py")
    script = script.replace("n_train_epochs 15", "n_train_epochs 15 --debug --n_prompts 4 --max_length 40")
    environment = {
        **os.environ,
        "MODELS": str(tmp_path),
        "CLOVE_ROOT": str(world),
        "CUDA_VISIBLE_DEVICES": "0",
    }
    done = subprocess.run(
        ["bash", "-euc", script], cwd=PROJECT / "SRM", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for setting, order in (("scene", "abcdef"), ("functional", "oarlks")):
        root = tmp_path / "exp/clvqa/QAG_seq/not_use_gt" / f"QAG_{setting}_task_token"
        folder = root / "distilgpt2_replay" / f"distilgpt2_{setting}_{order}"
        assert len(list(folder.glob("*.npy"))) == 20
        assert '"add_task_tokens": true' in (folder / "settings.json").read_text()


@pytest.mark.slow
def test_a_run_imports_no_mmf(srm: Runs) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(PROJECT)!r}); from SRM.train import main; code = main(sys.argv[1:]);"
        "found = [name for name in sys.modules if name == 'mmf' or name.startswith('mmf.')];"
        "sys.exit(code or len(found))"
    )
    subprocess.run([sys.executable, "-c", code, *srm.argv("--debug", "--n_prompts", "2")], check=True)
