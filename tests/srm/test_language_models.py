"""Language models that are not among the published ones: their runs on clove-mini, and which models are refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest
from srm_runs import FAMILIES, Runs, file_bytes, kill_when
from transformers import AutoConfig, AutoModelForMaskedLM

from mmclvqa.clove.experiment_paths import srm_experiment, srm_folder
from mmclvqa.clove.records import load_records
from SRM.folder import RunFolder
from SRM.model import load_model
from SRM.settings import parse

pytestmark = pytest.mark.xdist_group("language_models")
ORDER = "oarlks"
FLAGS = (
    *("--n_train_epochs", "6", "--min_batch_size", "16", "--learning_rate", "2e-2", "--n_sg_seq", "2"),
    *("--n_prompts", "4", "--max_length", "32", "--n_replay", "8", "--adam_epsilon", "1e-8"),
)


@dataclass(eq=False)
class OnCloveMini:
    """Runs on clove-mini with the models of the tiny data root, which are given by their folders."""

    mini: Path
    models: Path
    folders: pytest.TempPathFactory

    def flags(self, name: str) -> tuple[str, ...]:
        return (*FLAGS, "--model_name", str(self.models / name))

    def runs(self) -> Runs:
        """Return runs in a folder of their own."""
        return Runs(self.mini, self.folders.mktemp("runs"))

    @cache  # noqa: B019 (one instance)
    def finished(self, name: str) -> Path:
        """Return the folder of a run that was not interrupted."""
        return self.runs()(*self.flags(name))


@pytest.fixture(scope="module")
def on_mini(clove_mini: Path, shared_world: Path, tmp_path_factory: pytest.TempPathFactory) -> OnCloveMini:
    return OnCloveMini(clove_mini, shared_world / "pretrained", tmp_path_factory)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_given_by_its_folder_writes_all_replay_files(on_mini: OnCloveMini, name: str) -> None:
    folder = on_mini.finished(name)
    assert folder.parts[-2:] == (f"{name}_replay", f"{name}_functional_{ORDER}")
    names = {f"{ORDER}_REPLAY[{past}]_AT[{current}].npy" for past, current in combinations(ORDER, 2)}
    names |= {f"{ORDER}_REPLAY_AT[{current}].npy" for current in ORDER[1:]}
    assert {path.name for path in folder.glob("*.npy")} == names
    assert {path.stem for path in folder.glob(f"{ORDER}*.json")} == {Path(file).stem for file in names}
    log = (folder / "log_train.txt").read_text()
    assert "has a row of its own" not in log and "recomputed" not in log
    if name != "tiny-flan-t5":  # it spells clove-mini's words letter by letter, and learns in more epochs
        records = [record for path in folder.glob("*REPLAY[[]*.npy") for record in load_records(path)]
        assert {record["anno_source"] for record in records} == {f"{name}_replay"}


@pytest.mark.slow
def test_a_run_killed_in_generation_has_the_same_files(on_mini: OnCloveMini) -> None:
    runs, flags = on_mini.runs(), on_mini.flags("tiny-llama")
    kill_when(runs, flags, lambda folder: any(folder.glob("*[[]o]_AT[[]a]*")))
    assert file_bytes(runs(*flags)) == file_bytes(on_mini.finished("tiny-llama"))


def test_a_hub_id_names_the_folders_of_srm_and_of_the_experiments_by_its_last_part(srm: Runs) -> None:
    name = "HuggingFaceTB/SmolLM2-135M"
    folder = RunFolder(parse(srm.argv("--model_name", name))).path
    assert folder == srm.root / srm_folder(name, "functional", ORDER)
    assert folder.parts[-2:] == ("SmolLM2-135M_replay", f"SmolLM2-135M_functional_{ORDER}")
    assert srm_experiment(name, 1.5).startswith("SmolLM2-135M_replay_qag_seq")


def test_an_unknown_model_offline_names_all_places_and_the_nearest_published_name(
    srm: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("SRM.model.HF_HUB_CACHE", "/cache/hub")
    error = srm.error("--model_name", "nobody/distillgpt2")
    assert f"Looked in {srm.data}/pretrained/nobody/distillgpt2 and {Path.cwd()}/nobody/distillgpt2" in error
    assert "for nobody/distillgpt2 in the hub's cache /cache/hub and on the hub" in error
    assert error.endswith("the nearest published name is distilgpt2")
    assert not srm.root.exists()


def test_a_model_that_attends_to_later_tokens(srm: Runs) -> None:
    folder = srm.data / "pretrained" / "tiny-llama"
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", vocab_size=600, **sizes)).save_pretrained(folder)
    assert "type bert, which attends to later tokens" in srm.error("--model_name", "tiny-llama")


def test_a_model_that_needs_code_of_its_authors(srm: Runs) -> None:
    folder = srm.data / "pretrained" / "tiny-llama"
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "own"}
    config["auto_map"] = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('the code ran')")
    assert "tiny-llama: contains no language model" in srm.error("--model_name", "tiny-llama")


def test_weights_that_are_not_safetensors(srm: Runs) -> None:
    folder = srm.data / "pretrained" / "tiny-llama"
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "tiny-llama: cannot be loaded" in srm.error("--model_name", "tiny-llama")


def test_sampling_and_penalties_of_a_model_are_not_used(shared_world: Path) -> None:
    model, _ = load_model(shared_world / "pretrained" / "tiny-qwen3", "tiny-qwen3")
    assert not model.generation_config.do_sample and model.generation_config.repetition_penalty in (None, 1.0)
