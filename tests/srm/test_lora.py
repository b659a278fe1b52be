"""``--lora_rank``: adapters of a language model, merged into its weights after each task."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from srm_runs import DEBUG, TRAIN, TRAINED, Runs, file_bytes, kill_when

from mmclvqa.clove.experiment_paths import srm_experiment
from mmclvqa.experiments.scripts import script_name
from mmclvqa.experiments.steps import Experiment, experiment_steps
from mmclvqa.methods.symbolic_replay import replays_folder
from SRM.folder import RunFolder
from SRM.model import load_model
from SRM.settings import parse

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is not installed (pip install -r lora_requirements.txt)"
)
MODELS = ("tiny-llama", "tiny-qwen3", "tiny-flan-t5", "distilgpt2")
RANK = ("--lora_rank", "4")


def test_without_peft_one_line_names_the_command_that_installs_it(srm: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else found(name))
    error = srm.error(*DEBUG, *RANK)
    assert error == "error: --lora_rank 4: peft is not installed; install it: pip install -r lora_requirements.txt"
    assert not srm.root.exists()


def test_a_rank_below_one(srm: Runs) -> None:
    assert "--lora_rank" in srm.error(*DEBUG, "--lora_rank", "0")


def test_runs_without_adapters_have_the_settings_of_before(srm: Runs) -> None:
    assert "lora_rank" not in parse(srm.argv()).result_settings()


def test_the_rank_is_in_every_name_so_that_results_do_not_mix(srm: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("SRM.settings.check_installed", lambda *_: None)
    argv = srm.argv("--model_name", "HuggingFaceTB/SmolLM2-135M", *RANK)
    folder = RunFolder(parse(argv)).path
    assert folder.parts[-2:] == ("SmolLM2-135M_lora4_replay", "SmolLM2-135M_lora4_functional_oarlks")
    text = "srm:language_model=HuggingFaceTB/SmolLM2-135M,lora_rank=4,restore_rate=0.5"
    experiment = Experiment.of("functional", "oarlks", text)
    assert experiment.name == srm_experiment("SmolLM2-135M_lora4", 0.5)
    assert "SmolLM2-135M_lora4_wogt_wtt_0.5" in script_name(experiment)
    (step,) = (step for step in experiment_steps(experiment, "root") if step.kind == "srm")
    assert "--lora_rank 4" in step.arguments
    assert str(Path(step.output).parent) == replays_folder(experiment.name, "functional", "oarlks", "root")
    assert step.output.startswith("root/exp/clvqa/QAG_seq/") and folder.parts[-2] in step.output


@needs_peft
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_adapters_are_merged_into_an_ordinary_model_that_has_learned(srm: Runs, name: str) -> None:
    folder = srm(*DEBUG, "--model_name", name, *RANK, "--learning_rate", "1e-1")
    source, first, last = srm.data / "pretrained" / name, folder / "models/object", folder / "models/scenetext"
    assert not list(folder.rglob("adapter*")) and not (folder / "unfinished").exists()
    (before, _), (after, _), (end, tokens) = (load_model(place, name) for place in (source, first, last))
    assert set(before.state_dict()) == set(after.state_dict()) == set(end.state_dict())
    changed = {
        key: after.state_dict()[key] - tensor
        for key, tensor in before.state_dict().items()
        if after.state_dict()[key].shape == tensor.shape and not torch.equal(after.state_dict()[key], tensor)
    }
    matrices = [difference for difference in changed.values() if difference.dim() == 2]
    assert matrices and all(torch.linalg.matrix_rank(difference, rtol=1e-3) <= 4 for difference in matrices)
    embeddings = end.get_input_embeddings().weight
    assert embeddings.shape[0] >= len(tokens) and torch.isfinite(embeddings).all()
    assert not any("lora" in key or "base_layer" in key for key in end.state_dict())


@needs_peft
@pytest.mark.slow
def test_trained_adapters_write_replays_and_a_killed_run_ends_with_the_same_files(
    shared_world: Path, tmp_path: Path
) -> None:
    flags = (*TRAINED, *RANK, "--learning_rate", "2e-2")
    whole, killed = Runs(shared_world, tmp_path / "whole"), Runs(shared_world, tmp_path / "killed")
    folder = whole(*flags)
    checkpoint = "unfinished/training.safetensors"
    kill_when(killed, flags, lambda run: (run / checkpoint).exists() and (run / "models/object").exists())
    (path,) = tmp_path.glob(f"killed/*/*/{checkpoint}")
    with safe_open(path, "pt") as file:
        names = {key.partition("/")[2] for key in file.keys()}  # noqa: SIM118 (not a dict)
    assert all("lora_" in name or "wte" in name for name in names), names
    assert file_bytes(killed(*flags)) == file_bytes(folder)
    assert any(path.stat().st_size > 1000 for path in folder.glob("*REPLAY[[]o]*.npy"))


def test_the_command_line_describes_the_flag() -> None:
    done = subprocess.run([sys.executable, TRAIN, "--help"], capture_output=True, text=True, timeout=60)
    assert "--lora_rank RANK" in done.stdout
