"""The command line: help without delay, the published commands, no import of MMF."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from SRM.settings import parse

PROJECT = Path(__file__).resolve().parents[2]
REQUIRED = ["--cl_setting", "scene", "--task_seq", "abcdef", "--model_dir_root", "x", "--data_dir", "."]
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
def test_help_is_printed_within_four_seconds(where: str) -> None:
    script, cwd = ("SRM/train.py", PROJECT) if where == "root" else ("train.py", PROJECT / "SRM")
    begun = time.monotonic()
    done = subprocess.run([sys.executable, script, "--help"], cwd=cwd, capture_output=True, text=True, check=True)
    assert time.monotonic() - begun <= 4
    for text in (
        "task order and model:",
        "paths:",
        "training:",
        "generation:",
        "--lm_lambda",
        "(default 0.25)",
        "TOKENS",
    ):
        assert text in done.stdout


def test_the_published_defaults() -> None:
    settings = parse(REQUIRED)
    defaults = {
        "model_name": "distilgpt2", "n_train_epochs": 15, "n_sg_seq": 30, "lm_lambda": 0.25, "learning_rate": 6.25e-5,
        "adam_epsilon": 1e-4, "weight_decay": 0.01, "max_grad_norm": 1.0, "n_warmup_ratio": 0.005,
        "decay_style": "linear", "tokens_weight": 5.0, "train_perc": 1.0, "seed": 42, "min_batch_size": 4,
        "min_n_steps": 1500, "n_prompts": 15000, "n_replay": 5000, "max_length": 512, "max_n_epochs": 30,
        "length_rule": "published", "ignored": (),
    }  # fmt: skip
    assert {name: getattr(settings, name) for name in defaults} == defaults


def test_flags_can_be_read_from_a_file_with_comments() -> None:
    settings = parse([*REQUIRED, f"@{PROJECT / 'SRM' / 'mini.args'}", "--n_train_epochs", "1"])
    assert settings.dropout == 0 and settings.learning_rate == 2e-3 and settings.n_train_epochs == 1


def test_published_flags_without_effect_change_nothing_and_are_named() -> None:
    given = ["--seq_train_type", "lll", "--use_sep", "--gen_lm_sample_percentage", "0.05"]
    given += ["--lr_schedule", "warmup_linear", "--qp_margin", "0.5", "--model_arch", "decoder-only"]
    given += ["--tasks", "object", "attribute", "--replay_dir", "y"]
    settings = parse([*REQUIRED, *given])
    names = ("seq_train_type", "use_sep", "gen_lm_sample_percentage", "lr_schedule")
    assert settings.ignored == (*names, "qp_margin", "model_arch", "tasks", "replay_dir")
    assert settings.result_settings() == parse(REQUIRED).result_settings()


def test_train_perc_is_appended_to_the_root() -> None:
    needed = [*REQUIRED, "--model_dir_root", "x/QAG/"]
    assert parse([*needed, "--train_perc", "0.5"]).model_root == Path("x/QAG_tr0.5")
    assert parse([*needed, "--train_perc", "1"]).model_root == Path("x/QAG")


def test_the_published_command_lines_are_accepted_without_changes(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOVE_ROOT", str(world))
    monkeypatch.setenv("MODELS", "models")
    script = PUBLISHED.strip().replace("python train.py", r"printf '%s\0'").replace("\n#", "; echo\n#") + "; echo"
    printed = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True).stdout
    for line, setting, order in zip(printed.splitlines(), ("scene", "functional"), ("abcdef", "oarlks"), strict=True):
        settings = parse(line.removesuffix("\0").split("\0"))
        assert (settings.cl_setting, settings.task_seq, settings.n_train_epochs) == (setting, order, 15)
        assert settings.add_task_tokens and settings.model_name == "distilgpt2"
        assert settings.model_root == Path(f"models/exp/clvqa/QAG_seq/not_use_gt/QAG_{setting}_task_token")


def test_a_run_imports_no_mmf() -> None:
    code = "import sys, SRM.train, SRM.run; sys.exit(any(name.partition('.')[0] == 'mmf' for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)


def test_every_draw_has_a_seed_of_its_own() -> None:
    settings, other = parse(REQUIRED), parse([*REQUIRED, "--seed", "43"])
    seeds = [settings.named_seed("examples", "a", 1), settings.named_seed("examples", "a", 2)]
    seeds += [settings.named_seed("dropout", "a", 1), other.named_seed("examples", "a", 1)]
    assert len(set(seeds)) == 4 and seeds[0] == parse(REQUIRED).named_seed("examples", "a", 1)
