"""Configuration: precedence, includes, and refusals that name the key."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import pytest
from mmf.utils.configuration import Configuration
from omegaconf import OmegaConf

from mmclvqa.clove.tasks import SETTINGS, tasks
from mmclvqa.configuration import ConfigError, parse_value

TASK = "EXP_CONFIG/functional/cl_object_unicl_standalone.yaml"
NAMES = ("model=unicl", "dataset=clvqa")
ANSWERS = "dataset_config.clvqa.processors.answer_processor.params"
TASK_FILES = [
    (setting, task, f"{base}/{setting}/cl_{task.name}_unicl_standalone.yaml")
    for base in ("EXP_CONFIG", "EXP_CONFIG/mini")
    for setting in SETTINGS
    for task in tasks(setting).values()
]


@pytest.fixture(autouse=True)
def _at_the_root(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("ROOT", "/experiments")
    monkeypatch.setenv("CLOVE_ROOT", "/data")


def read(*words: str):
    return Configuration(argparse.Namespace(opts=list(words), config_override=None)).get_config()


@pytest.mark.parametrize(("setting", "task", "path"), TASK_FILES, ids=lambda v: v if isinstance(v, str) else "")
def test_every_task_file_names_its_records_and_its_folder(setting: str, task, path: str) -> None:
    config = read(f"config={path}", *NAMES)
    assert list(config.dataset_config.clvqa.annotations.train) == [task.annotation_path("train")]
    assert list(config.dataset_config.clvqa.annotations.test) == [task.annotation_path("test")]
    assert config.env.save_dir == f"/experiments/exp/clvqa/save/stand_alone/{setting}/unicl_{task.name}"
    assert config.training.CL.cl_setting == setting
    OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("base", ["EXP_CONFIG", "EXP_CONFIG/mini"])
def test_multitask_files_name_all_six_tasks(base: str, setting: str) -> None:
    config = read(f"config={base}/cl_{setting}_multitask_unicl.yaml", *NAMES)
    wanted = [task.annotation_path("train") for task in tasks(setting).values()]
    assert list(config.dataset_config.clvqa.annotations.train) == wanted
    assert config.env.save_dir.endswith(f"multitask/unicl_{setting}_incremental")


def test_the_defaults_are_the_published_ones() -> None:
    config = read(f"config={TASK}", *NAMES)
    training = config.training
    assert (training.max_updates, training.batch_size) == (24000, 32)
    assert (training.warmup_iterations, training.warmup_factor) == (1000, 0.2)
    assert (list(training.lr_steps), training.lr_ratio) == ([14000, 19000], 0.1)
    assert training.max_grad_l2_norm == 0.25
    assert (config.optimizer.type, config.optimizer.params.lr, config.optimizer.params.eps) == ("Adam", 1e-4, 1e-8)
    multitask = read("config=EXP_CONFIG/cl_functional_multitask_unicl.yaml", *NAMES).training
    assert (multitask.max_updates, multitask.batch_size, multitask.warmup_iterations) == (120000, 64, 2000)
    assert list(multitask.lr_steps) == [30000, 60000, 90000]
    scene = read("config=EXP_CONFIG/cl_scene_multitask_unicl.yaml", *NAMES).training
    assert (scene.max_updates, scene.batch_size) == (100000, 32)


def test_words_of_the_seeds_scripts_are_taken() -> None:
    config = read(
        f"config={TASK}",
        *NAMES,
        "training.CL.use_cl=True",
        "training.CL.use_callback=False",
        "training.CL.use_replay=True",
        "training.CL.replay_method=restore_with_prob",
        "training.CL.task_order=oarlks",
        "training.CL.restore_rate=1.5",
        "training.CL.restore_dir=/r/QAG_seq/distilgpt2_functional_oarlks",
        "training.CL.restore_paths=oarlks_REPLAY[o]_AT[r].npy,oarlks_REPLAY[a]_AT[r].npy",
        "dataset_config.clvqa.use_mask_img=True",
        "dataset_config.clvqa.mask_img_prob=0.15",
        "run_type=train_val",
        "checkpoint.resume_file=/r/unicl_final.pth",
        "env.save_dir=/r/unicl_attribute",
        "training.checkpoint_interval=4000",
        "training.callbacks=[]",
    )
    assert config.training.CL.restore_paths == "oarlks_REPLAY[o]_AT[r].npy,oarlks_REPLAY[a]_AT[r].npy"
    assert config.training.CL.use_callback is False
    assert list(config.training.callbacks) == []
    assert config.env.save_dir == "/r/unicl_attribute"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("training.max_update=3", "did you mean training.max_updates"),
        ("training.CL.restore_path=x", "did you mean training.CL.restore_paths"),
        ("max_updates=3", "training.max_updates"),
        ("dataset_config.clvqa.cur_task=objec", "did you mean training.CL.cur_task or"),
        ("training.CL.cur_task=objec", "functional: unknown task 'objec'"),
        ("training.CL.cur_task=objec", "did you mean object?"),
        ("training.max_updates=many", "training.max_updates=many: it must be a whole number"),
        ("training.max_updates=2.5", "training.max_updates=2.5: it must be a whole number"),
        ("training.max_epochs=abc", "training.max_epochs=abc: it must be a whole number"),
        ("training.eval_batch_size=0", "training.eval_batch_size=0: it must be a whole number of at least 1"),
        ("training.num_workers=-1", "training.num_workers=-1: it must be a whole number of at least 0"),
        ("training.num_workers=null", "training.num_workers=null: it must be a number"),
        ("training.seed=5000000000", "it must be a whole number of at least -1 and at most 4294967295"),
        ("training.seed=-5", "training.seed=-5: it must be a whole number of at least -1"),
        ("learning_rate=nan", "learning_rate=nan: it must be a number"),
        ("training.lr_steps=often", "training.lr_steps=often: it must be a list of numbers"),
        ("training.CL.use_cl=maybe", "training.CL.use_cl=maybe: it must be true or false"),
        ("env.save_dir={'a': 1}", "env.save_dir={'a': 1}: it must be a text"),
        ("training.early_stop={'enable': True}", "unknown key training.early_stop.enable; did you mean"),
        ("training.CL=1", "training.CL=1: it must be a group of keys (method, "),
        ("training.CL=null", "training.CL=null: it must be a group of keys (method, "),
        ("model_config.unicl=null", "model_config.unicl=null: it must be a group of keys ("),
        ("run_type=null", "run_type=null: it must be a text"),
        ("env.clove_root=null", "env.clove_root=null: it must be a text"),
        ("training.logger_level=verbose", "training.logger_level=verbose: expected one of: debug, info"),
        ("model_config.unicl.mmt.num_hidden_layers=0", "num_hidden_layers=0: it must be a whole number of at least 1"),
        ("model_config.unicl.obj.dropout_prob=1.5", "it must be a number of at least 0 and at most 1"),
        ("training.log_interval=-1", "it must be a whole number of at least 0"),
        ("dataset_config.clvqa.mask_img_prob=7", "it must be a number of at least 0 and at most 1"),
        (f"{ANSWERS}.max_copy_steps=0", "max_copy_steps=0: it must be a whole number of at least 1 and at most 100"),
        ("dataset_config.clvqa.data_dir=null", "dataset_config.clvqa.data_dir=null: it must be a text"),
        ("training.device=tpu", "expected one of: auto, cpu, cuda"),
        ("training.device=cuda:x", "expected one of: auto, cpu, cuda"),
        ("training.callbacks={1}", "training.callbacks[0]: Value 'set' is not a supported primitive type"),
        ("training.experiment_name=${foo}", "training.experiment_name: Interpolation key 'foo' not found"),
        ("training.experiment_name=${foo", "training.experiment_name: no viable alternative at input '${foo'"),
        ("optimizer.params.weigth_decay=1", "unknown key optimizer.params.weigth_decay; did you mean"),
        ("nonsense", "not of the form key=value"),
    ],
)
def test_a_wrong_word_is_refused_by_name(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read(f"config={TASK}", *NAMES, word)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training:\n  max_updats: 3\n", "unknown key training.max_updats; did you mean training.max_updates"),
        ("training: [\n", "while parsing"),
        ("- 1\n", "not a mapping"),
        ("includes: [nowhere.yaml]\n", "nowhere.yaml does not exist"),
        ("includes: [mine.yaml]\n", "mine.yaml includes itself"),
        ("includes: base.yaml\n", "includes=base.yaml: it must be a list of files"),
        ("training: {max_updates: 2.5}\n", "mine.yaml: training.max_updates=2.5: it must be a whole number"),
        ("training: {early_stop: true}\n", "mine.yaml: training.early_stop=True: it must be a group of keys"),
        ("training: {CL: {ewc: [1]}}\n", "mine.yaml: training.CL.ewc=[1]: it must be a group of keys (reg_lambda)"),
        ("model_config: {unicl: [1]}\n", "mine.yaml: model_config.unicl=[1]: it must be a group of keys"),
        ("training: {batch_size: {a: 1}}\n", "mine.yaml: training.batch_size={'a': 1}: it must be a whole number"),
        ("optimizer: {type: {a: 1}}\n", "mine.yaml: optimizer.type={'a': 1}: it must be a text"),
        ("datasets: {a: 1}\n", "mine.yaml: datasets={'a': 1}: it must be a text"),
        ("training: {experiment_name: '${foo}'}\n", "training.experiment_name: Interpolation key 'foo' not found"),
        (f"includes: [{TASK}]\ntraining: [1]\n", "mine.yaml: training is a list in one of its files and a group of"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read(f"config={path}", *NAMES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("training.experiment_name=7", "7"),
        ("training.experiment_name=1e5", "1e5"),
        ("training.experiment_name=True", "True"),
        ("env.save_dir=2024", "2024"),
        ("env.save_dir=~/run", os.path.expanduser("~/run")),
        ("checkpoint.resume_file=7", "7"),
        ("training.CL.task_order=1,2", "1,2"),
        ("training.CL.method=['ewc', 'random']", "ewc,random"),
        ("training.num_workers=2.0", 2),
        ("training.max_updates=1e3", 1000),
        ("training.max_updates=null", None),
        ("training.max_epochs=null", None),
        ("training.lr_ratio=1", 1),
        ("optimizer.params.weight_decay=0.01", 0.01),
        ("optimizer.params.momentum=0.9", 0.9),
        ("scheduler.params.num_warmup_steps=10", 10),
        ("model_config.unicl.losses=[{type: a, params: {b: 1.0}}, {type: c}]",
         [{"type": "a", "params": {"b": 1.0}}, {"type": "c"}]),
        ("training.pin_memory=1", True),
        ("training.lr_steps=1", [1]),
        ("training.lr_steps=(1, 2)", [1, 2]),
        ("evaluation.metrics=textvqa_accuracy", ["textvqa_accuracy"]),
        ("evaluation.metrics=[textvqa_accuracy, textvqa_accuracy_cls]", ["textvqa_accuracy", "textvqa_accuracy_cls"]),
        ("dataset_config.clvqa.annotations.train=a.npy,b.npy", ["a.npy", "b.npy"]),
        ("dataset_config.clvqa.features_dir=${env.data_dir}", "/data"),
    ],
)
def test_an_override_takes_the_kind_of_its_default(word: str, value: object) -> None:
    selected = OmegaConf.select(read(f"config={TASK}", *NAMES, word), word.partition("=")[0])
    selected = list(selected) if OmegaConf.is_list(selected) else selected
    assert selected == value and type(selected) is type(value)


@pytest.mark.parametrize("text", ["[1]", "5"])
def test_a_config_override_other_than_an_object_is_refused(text: str) -> None:
    args = argparse.Namespace(opts=[f"config={TASK}", *NAMES], config_override=text)
    with pytest.raises(ConfigError, match=re.escape(f"config_override={text}: it must be a JSON object")):
        Configuration(args)


def test_a_learning_rate_of_0_replaces_that_of_the_optimizer() -> None:
    assert read(f"config={TASK}", *NAMES, "learning_rate=0").optimizer.params.lr == 0
    assert read(f"config={TASK}", *NAMES).optimizer.params.lr == 1e-4


def test_an_empty_variable_of_the_environment_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROOT", "CLOVE_ROOT"):
        monkeypatch.setenv(name, "")
    config = read(f"config={TASK}", *NAMES)
    assert (config.env.root, config.env.clove_root, config.env.data_dir) == (".", "data/clove", "data/clove")


def test_knowledge_is_tokenized_as_questions_are_unless_it_is_configured() -> None:
    processors = "dataset_config.clvqa.processors"
    words = [f"{processors}.text_processor.params.max_seq_length=12",
             f"{processors}.text_processor.params.tokenizer_config.type=mine"]  # fmt: skip
    knowledge = f"{processors}.knowledge_processor.params.max_seq_length"
    for more, length in (((), 12), ((f"{knowledge}=9",), 9)):
        config = read(f"config={TASK}", *NAMES, *words, *more).dataset_config.clvqa.processors
        assert config.knowledge_processor.params.tokenizer_config.type == "mine"
        assert config.knowledge_processor.params.max_seq_length == length
        assert config.text_processor.params.max_seq_length == 12


def test_the_documented_schedules_are_set_by_overrides() -> None:
    words = ("scheduler.type=warmup_cosine", "scheduler.params.num_warmup_steps=2")
    params = read(f"config={TASK}", *NAMES, *words, "scheduler.params.num_training_steps=8").scheduler.params
    assert dict(params) == {"num_warmup_steps": 2, "num_training_steps": 8}
    for name in ("decoupled_weight_decay", "momentum_decay"):
        assert read(f"config={TASK}", *NAMES, f"optimizer.params.{name}=1").optimizer.params[name] == 1


def test_a_group_of_keys_may_be_one_override() -> None:
    word = "training.early_stop={'enabled': 1, 'patience': 10}"
    early_stop = read(f"config={TASK}", *NAMES, word).training.early_stop
    assert (early_stop.enabled, early_stop.patience, early_stop.minimize) == (True, 10, False)
    params = read(f"config={TASK}", *NAMES, "optimizer.params={'lr': 0.1}").optimizer.params
    assert dict(params) == {"lr": 0.1}
    data = read(f"config={TASK}", *NAMES, "dataset_config.clvqa={'n_img_feat': 36}").dataset_config.clvqa
    assert data.max_features == 36


def test_a_task_in_a_group_of_keys_names_its_records() -> None:
    group = "training.CL={'cl_setting': 'functional', 'cur_task': 'relation'}"
    config = read("config=EXP_CONFIG/mini/setting.yaml", *NAMES, group)
    assert list(config.dataset_config.clvqa.annotations.train) == ["functional/fcl_mmf_relation_train.npy"]
    both = "training.CL={'replay_rate': 0.2, 'random': {'replay_rate': 0.1}}"
    with pytest.raises(ConfigError, match="contradict each other"):
        read(f"config={TASK}", *NAMES, both)


def test_a_value_in_a_file_takes_the_kind_of_its_default(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("training: {experiment_name: 7, max_updates: 8.0}\n")
    training = read(f"config={tmp_path / 'mine.yaml'}", *NAMES).training
    assert (training.experiment_name, repr(training.max_updates)) == ("7", "8")


def test_a_whole_number_in_a_file_may_become_another_number(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("training: {lr_ratio: 1}\noptimizer: {params: {momentum: 0}}\n")
    config = read(f"config={tmp_path / 'mine.yaml'}", *NAMES, "training.lr_ratio=0.5", "optimizer.params.momentum=0.9")
    assert (config.training.lr_ratio, config.optimizer.params.momentum) == (0.5, 0.9)


def test_a_config_path_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match="config file .*nowhere.yaml does not exist"):
        read("config=nowhere.yaml", *NAMES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dataset=clvqa",), "no model is given"),
        (("model=unicl",), "no data set is given"),
        (("model=unicll", "dataset=clvqa"), "did you mean unicl"),
        (("model=unicl", "dataset=clvq"), "did you mean clvqa"),
    ],
)
def test_model_and_dataset_must_be_registered(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(f"config={TASK}", *words)


def test_includes_are_relative_to_the_file_and_overridden_by_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("training: {max_updates: 5, batch_size: 3}\n")
    (tmp_path / "mine.yaml").write_text("includes: [base.yaml]\ntraining: {batch_size: 4}\n")
    training = read(f"config={tmp_path / 'mine.yaml'}", *NAMES).training
    assert (training.max_updates, training.batch_size) == (5, 4)


def test_a_file_may_name_the_model_and_data_sets_in_a_list(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: unicl\ndatasets: [clvqa]\n")
    config = read(f"config={tmp_path / 'mine.yaml'}", "model=")
    assert (config.model, config.datasets, config.dataset) == ("unicl", "clvqa", "clvqa")


def test_open_nodes_take_new_keys_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("optimizer: {type: SGD, params: {momentum: 0.9}}\n")
    assert read(f"config={tmp_path / 'mine.yaml'}", *NAMES).optimizer.params.momentum == 0.9


def test_cuda_without_cuda_falls_back_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.warns(UserWarning, match="no CUDA device is available"):
        config = read(f"config={TASK}", *NAMES, "training.device=cuda")
    assert config.training.device == "cpu"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("0.5", 0.5), ("[1, 2]", [1, 2]), ("true", True), ("False", False), ("null", None), ("a,b", "a,b"),
     ("{[1]: 2}", "{[1]: 2}")],
)
def test_command_line_values(text: str, value: object) -> None:
    assert parse_value(text) == value
