"""The published configuration files and commands, as they are."""

from __future__ import annotations

import argparse
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from mmf.utils.configuration import Configuration
from omegaconf import DictConfig, OmegaConf

from mmclvqa import cli
from mmclvqa.configuration import ConfigError
from mmclvqa.published_configs import IGNORED_KEYS, ignored_pattern, translate_key
from tests.parity import check_commands, check_configs
from tests.run_fixtures import fresh_logging, one_thread  # noqa: F401

FIXTURES = Path(__file__).parents[1] / "fixtures"
CONFIGS, COMMANDS = FIXTURES / "published_configs.json", FIXTURES / "published_commands.json"
RUNS = [
    pytest.param(world, method, id=f"{world.split()[0]}-{method}")
    for world, methods in json.loads(COMMANDS.read_text()).items()
    for method in methods
]
WITH_PUBLISHED_FILES = ("stand_alone", "ewc", "distilgpt2 use_gt=False task_token=True 1.5")
OBJECT = "functional/cl_object_unicl_standalone.yaml"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 14 files below one folder."""
    folder = tmp_path_factory.mktemp("published")
    check_commands.write_published(CONFIGS, folder)
    return folder


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("ROOT", "/experiments")
    monkeypatch.setenv("CLOVE_ROOT", "/clove")


def read(*words: str) -> DictConfig:
    return Configuration(argparse.Namespace(opts=list(words), config_override=None)).get_config()


def quietly(*words: str) -> DictConfig:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read(*words)


def edited(published: Path, tmp_path: Path, name: str, **changes: Any) -> Path:
    """A copy of a published file with values at dotted keys (``__`` for the dot)."""
    config = OmegaConf.load(published / name)
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    path = tmp_path / "edited.yaml"
    OmegaConf.save(config, path)
    return path


# ------------------------------------------------------------------------------------- values


def test_every_published_value_holds_or_stands_in_the_table_of_differences() -> None:
    used: set[str] = set()
    assert list(check_configs.check(CONFIGS, used)) == []
    assert used == set(check_configs.DIFFERENT), "the table has entries that are no difference any more"


def test_every_key_without_meaning_is_a_published_one() -> None:
    keys = {key for values in check_configs.published_files(CONFIGS).values() for key in values}
    assert {ignored_pattern(key) for key in keys} - {None} == set(IGNORED_KEYS)


def test_a_value_that_does_not_hold_is_named(tmp_path: Path) -> None:
    content = json.loads(CONFIGS.read_text())
    name = "cl_scene_multitask_unicl.yaml"
    content["only_here"] = {name: content["only_here"][name] | {"training.lr_steps": [14000, 19000]}}
    content["in_all_14"] |= {"dataset_config.clvqa.n_img_feat": 50, "training.new": 1}
    path = tmp_path / "configs.json"
    path.write_text(json.dumps(content))
    assert sorted(check_configs.check(path)) == [
        f"{name}: dataset_config.clvqa.n_img_feat (dataset_config.clvqa.max_features here): published 50, ours 100",
        f"{name}: training.lr_steps: published [14000, 19000], ours [30000, 60000, 80000]",
        f"{name}: training.new: published 1, ours '(no such key)'",
    ]


# ----------------------------------------------------------------------------------- commands


@pytest.mark.parametrize(("world", "method"), RUNS)
def test_each_published_command_does_what_its_step_of_the_order_needs(
    published: Path, tmp_path: Path, world: str, method: str
) -> None:
    run = json.loads(COMMANDS.read_text())[world][method]
    # The published files are composed with all overrides of few methods; check-long composes them with those of all.
    configs = published if method in WITH_PUBLISHED_FILES else tmp_path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert list(check_commands.check_run(world, run, configs)) == []


@pytest.mark.long
def test_all_published_commands_do_so_with_the_published_files() -> None:
    assert list(check_commands.check(COMMANDS, CONFIGS)) == []


def test_a_command_that_does_something_else_is_named(published: Path) -> None:
    world, method = "functional oarlks 1", "distilgpt2 use_gt=False task_token=True 1.5"
    run = json.loads(COMMANDS.read_text())[world][method]
    run["mmf_run"] = [
        [word.replace("AT[r]", "AT[a]").replace("unicl_attribute/unicl_final", "unicl_object/unicl_final")
         .replace("use_mask_img", "use_mask_image") if "unicl_relation" in " ".join(command) else word
         for word in command]
        for command in run["mmf_run"]
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problems = list(check_commands.check_run(world, run, published))
    assert all("did you mean dataset_config.clvqa.use_mask_img" in problem for problem in problems[:2])


# ------------------------------------------------------------------------------------ loading


@pytest.mark.parametrize("name", list(check_configs.published_files(CONFIGS)))
def test_a_published_file_loads_with_one_line_about_keys_without_meaning(published: Path, name: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = read(f"config={published / name}", "training.device=cpu")
    (line,) = [str(warning.message) for warning in caught if "not used by this project" in str(warning.message)]
    assert "\n" not in line and all(key in line for key in ("trainer", "training.wandb", "distributed", "zoo_req"))
    clvqa, setting = config.dataset_config.clvqa, config.training.CL.cl_setting
    assert (config.model, config.datasets, config.training.seed) == ("unicl", "clvqa", 42574508)
    assert clvqa.max_features == 100 and clvqa.features.gqa == "gqa/defaults/features/gqa.lmdb"
    assert all(path.startswith(f"{setting}/fcl_mmf_") for path in clvqa.annotations.train)
    assert clvqa.processors.answer_processor.params.vocab_file == "vocab/clvqa_answer_6k.txt"
    assert clvqa.processors.context_processor.params.model_file == "pretrained/fasttext/wiki.en.bin"
    assert clvqa.processors.text_processor.params.tokenizer_config.type == "bert-base-uncased"
    assert config.model_config.unicl.model_data_dir == "/clove"


def test_places_that_exist_are_used(published: Path, tmp_path: Path) -> None:
    (tmp_path / "mmf/datasets/gqa/defaults/features/gqa.lmdb").mkdir(parents=True)
    for name in ("answers.txt", "mine_train.npy"):
        (tmp_path / name).touch()
    path = edited(
        published, tmp_path, OBJECT,
        dataset_config__clvqa__data_dir=str(tmp_path / "mmf/datasets"),
        model_config__unicl__model_data_dir=str(tmp_path / "mmf"),
        dataset_config__clvqa__processors__answer_processor__params__vocab_file=str(tmp_path / "answers.txt"),
        dataset_config__clvqa__annotations__train=[str(tmp_path / "mine_train.npy")],
        env__save_dir=str(tmp_path / "runs/object"),
    )  # fmt: skip
    config = quietly(f"config={path}")
    clvqa = config.dataset_config.clvqa
    assert (clvqa.features_dir, clvqa.data_dir) == (str(tmp_path / "mmf/datasets"), "/clove")
    assert config.model_config.unicl.model_data_dir == str(tmp_path / "mmf")
    assert clvqa.processors.answer_processor.params.vocab_file == str(tmp_path / "answers.txt")
    assert list(clvqa.annotations.train) == [str(tmp_path / "mine_train.npy")]
    assert config.env.save_dir == str(tmp_path / "runs/object")


@pytest.mark.parametrize(
    ("entries", "sources"),
    [
        (["gqa/a.lmdb", "textvqa/b.lmdb,textvqa/c.lmdb"], ["gqa", "textvqa"]),
        (["textvqa/b.lmdb,textvqa/c.lmdb", "gqa/a.lmdb"], ["textvqa", "gqa"]),
        (["textvqa/b.lmdb,textvqa/c.lmdb"], ["textvqa"]),
        (["one.lmdb", "other.lmdb"], ["gqa", "textvqa"]),
        (["gqa/one.lmdb", "gqa/other.lmdb"], ["gqa", "textvqa"]),
    ],
)
def test_feature_databases_belong_to_the_source_in_their_path(entries: list[str], sources: list[str]) -> None:
    translated = translate_key("dataset_config.clvqa.features.val", entries)
    expected = {f"dataset_config.clvqa.features.{source}": path for source, path in zip(sources, entries, strict=True)}
    assert translated == expected


def test_keys_with_a_meaning_act(published: Path, tmp_path: Path) -> None:
    changes = {
        "dataset_config__clvqa__n_img_feat": 36,
        "dataset_config__clvqa__img_feat_dim": 1024,
        "training__fp16": True,
        "training__batch_size_per_device": 8,
    }
    for split in ("train", "val", "test"):
        changes[f"dataset_config__clvqa__features__{split}"] = ["mine.lmdb", "objects.lmdb,ocr.lmdb"]
    config = quietly(f"config={edited(published, tmp_path, OBJECT, **changes)}")
    clvqa = config.dataset_config.clvqa
    assert (clvqa.max_features, clvqa.feature_dim) == (36, 1024)
    assert (clvqa.features.gqa, clvqa.features.textvqa) == ("mine.lmdb", "objects.lmdb,ocr.lmdb")
    assert (config.training.precision, config.training.batch_size) == ("fp16", 8)
    assert quietly(f"config={published / 'cl_functional_multitask_unicl.yaml'}").evaluation.use_cpu is True


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training__evaluation_intervall": 5}, "did you mean training.evaluation_interval"),
        ({"dataset_config__clvqa__max_features": 50}, "n_img_feat: 100 contradicts dataset_config.clvqa.max_features"),
        ({"dataset_config__clvqa__features__val": ["other.lmdb"]}, "features.val: other.lmdb contradicts"),
        ({"dataset_config__clvqa__features__val": ["a", "b", "c"]}, "3 entries, but there are gqa and textvqa"),
    ],
)
def test_a_published_file_with_a_mistake_is_refused(
    published: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = edited(published, tmp_path, OBJECT, **changes)
    with pytest.raises(ConfigError) as caught:
        quietly(f"config={path}")
    message = str(caught.value)
    # Which of two contradicting keys comes first is the file's matter.
    if "max_features" in said:
        assert "n_img_feat" in message and "contradicts" in message and "max_features" in message
    else:
        assert said in message
    assert str(path) in message and "\n" not in message


def test_words_take_published_names_and_refuse_others(published: Path) -> None:
    word = f"config=EXP_CONFIG/{OBJECT}"
    names = ("model=unicl", "dataset=clvqa")
    assert read(word, *names, "dataset_config.clvqa.n_img_feat=36").dataset_config.clvqa.max_features == 36
    with pytest.warns(UserWarning, match=re.escape("ignored keys (not used by this project): training.detect_anomaly")):
        read(word, *names, "training.detect_anomaly=True")
    with pytest.raises(ConfigError, match="unknown key training.wand"):
        read(word, *names, "training.wand.enabled=False")


def test_a_file_of_ones_own_keeps_its_data_dir(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("dataset_config: {clvqa: {data_dir: /not/here, annotations: {train: [/not/here/x.npy]}}}\n")
    clvqa = read(f"config={path}", "model=unicl", "dataset=clvqa").dataset_config.clvqa
    assert clvqa.data_dir == "/not/here" and list(clvqa.annotations.train) == ["/not/here/x.npy"]


# ------------------------------------------------------------------------------------ running


def test_a_published_file_trains_on_clove_mini(
    published: Path, clove_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOVE_ROOT", str(clove_mini))
    sizes = yaml.safe_load(Path("EXP_CONFIG/mini/sizes.yaml").read_text())
    # The one key of these that only a file may bring.
    words = [f"{key}={value}" for key, value in _dotted(sizes) if not key.endswith("initializer_range")]
    words += ["model_config.unicl.text_bert.num_hidden_layers=1", "model_config.unicl.mmt.num_hidden_layers=1"]
    computed = ("ocr.mmt_in_dim", "classifier.ocr_ptr_net.hidden_size", "classifier.ocr_ptr_net.query_key_size")
    words += [f"model_config.unicl.{key}=null" for key in computed]
    slots = sizes["dataset_config"]["clvqa"]["ocr_max_num"]
    processors = [f"dataset_config.clvqa.processors.{name}_processor" for name in ("answer", "context", "phoc", "bbox")]
    words += [f"{processor}.params.max_length={slots}" for processor in processors]
    words += ["training.max_updates=2", "training.evaluation_interval=2", "training.batch_size=8"]
    words += ["training.num_workers=0", "training.device=cpu", "run_type=train_val", f"env.save_dir={tmp_path / 'run'}"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cli.run([f"config={published / OBJECT}", *words])
    assert (tmp_path / "run/unicl_final.pth").is_file() and not (tmp_path / "run/kmeans_replay.npy").exists()


def _dotted(content: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in content.items():
        found += _dotted(value, f"{above}{key}.") if isinstance(value, dict) else [(f"{above}{key}", value)]
    return found
