"""What a user can get wrong about a method: one line that names the key and what is legal."""

from __future__ import annotations

import math
import os
import pickle
import re
from dataclasses import dataclass

import pytest
import torch
from method_runs import Methods
from omegaconf import OmegaConf
from torch import nn

from mmclvqa.clove.errors import ConfigError
from mmclvqa.methods import base
from mmclvqa.methods.base import Method, parse_method, setting
from mmclvqa.methods.combination import method_of_experiment
from mmclvqa.methods.importances import Importances, write_importances
from mmclvqa.methods.selection import select_methods

EWC = ("training.trainer=CL", "training.CL.reg_type=ewc", "optimizer.type=weight_reg_adamw")
GEM = (
    "training.trainer=GEM", "training.CL.use_replay=True", "training.CL.replay_method=gem",
    "training.CL.replay_rate=0.25",
)  # fmt: skip
KMEANS = ("training.CL.use_replay=True", "training.CL.replay_method=kmeans")


@pytest.mark.parametrize(
    ("task", "words", "said"),
    [
        ("object", ("training.trainer=CL",), ("training.CL.reg_type=: expected one of: ", "ewc, mas")),
        ("object", (*EWC, "training.CL.reg_type=ecw"), ("reg_type=ecw", "did you mean ewc?")),
        ("attribute", EWC, ("training.CL.reg_params_pth is missing", "object", "reg_params.safetensors")),
        ("attribute", (*EWC, "training.CL.reg_params_pth=nowhere.safetensors"), ("nowhere", "no such file")),
        ("object", (*EWC, "optimizer.type=AdamW"), ("optimizer.type=AdamW", "weight_reg_adamw or weight_reg_sgd")),
        ("object", (*EWC, "training.CL.reg_lambda=-1"), ("training.CL.reg_lambda=-1", "at least 0")),
        ("object", (*EWC, "training.CL.task_order=null"), ("training.CL.task_order is missing",)),
        ("object", GEM, ("has no memories", "object is the first task")),
        ("attribute", (*GEM, "training.trainer=mmf"), ("replay_method=gem", "training.trainer=GEM")),
        ("attribute", (*GEM, "training.CL.gem_variant=egem"), ("gem_variant=egem", "gem, agem")),
        ("attribute", (*GEM, "training.CL.replay_rate=null"), ("training.CL.replay_rate=null: it must be a number",)),
        ("attribute", (*GEM, "training.CL.gem_memory_batch=0"), ("training.CL.gem_memory_batch=0: ", "0, or null")),
        (
            "attribute",
            ("training.CL.method=agem", "training.CL.agem.gem_memory_batch=nul"),
            ("training.CL.agem.gem_memory_batch=nul: it must be a whole number",),
        ),
        (
            "object",
            ("training.CL.method=agem", "training.CL.agem.gem_memory_batch=0"),
            ("agem.gem_memory_batch=0: it",),
        ),
        ("object", ("training.CL.method=derpp", "training.CL.derpp.alpha=null"), ("derpp.alpha=null: it must be a",)),
        (
            "object",
            ("training.CL.method=random", "training.CL.random.mask_images=null"),
            ("training.CL.random.mask_images=null: it must be a value other than null",),
        ),
        (
            "attribute",
            ("training.CL.method=agem", "training.CL.agem.gem_memory_batch=null", "training.CL.gem_memory_batch=4"),
            ("training.CL.agem.gem_memory_batch=null and training.CL.gem_memory_batch=4 contradict each other",),
        ),
        ("attribute", (*GEM, "training.CL.replay_method=random"), ("replay_method=random", "replay_method=gem")),
        ("object", (*KMEANS, "training.CL.replay_rate=0.1"), ("k-means replay", "model_config.unicl.use_cls=True")),
        ("object", (*KMEANS, "model_config.unicl.use_cls=True", "training.CL.replay_rate=2"), ("replay_rate=2",)),
        ("object", (*KMEANS, "model_config.unicl.use_cls=True", "training.CL.replay_rate=0.01"), ("is too small",)),
        ("attribute", (*KMEANS, "model_config.unicl.use_cls=True", "training.CL.replay_rate=0.1"), ("replay_dir",)),
        ("attribute", ("training.CL.use_replay=True", "training.CL.replay_method=kmean"), ("did you mean kmeans?",)),
        ("object", ("training.CL.method='ewc,mas'",), ("methods ewc and mas cannot be combined",)),
        (
            "attribute",
            ("training.CL.random.replay_rate=0.1", "training.CL.replay_rate=0.2"),
            ("training.CL.random.replay_rate=0.1 and training.CL.replay_rate=0.2 contradict each other",),
        ),
        ("attribute", ("training.CL.method=chance",), ("the chance level is not trained", "eval_os.py chance")),
        ("attribute", ("training.CL.cur_task=obj",), ("unknown task 'obj'", "did you mean object?")),
    ],
)
def test_one_clear_line(methods: Methods, task: str, words: tuple[str, ...], said: tuple[str, ...]) -> None:
    line = methods.error(task, *words)
    assert all(part in line for part in said), line


def test_null_is_legal_where_it_is_the_default() -> None:
    _, settings = parse_method("agem:gem_memory_batch=null")
    assert settings.gem_memory_batch is None
    with pytest.raises(ConfigError, match="alpha must be a number"):
        parse_method("derpp:alpha=null")


def test_a_setting_that_may_be_text_or_null_takes_both(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(Method):
        name, label = "mine", "mine"

        @dataclass(frozen=True)
        class Settings:
            file: str | None = setting(None, "a file")

    monkeypatch.setitem(base._registered, "mine", Mine)
    assert parse_method("mine:file=a.npy")[1].file == "a.npy" and parse_method("mine:file=null")[1].file is None


@pytest.mark.parametrize("method", ["random:replay_rate=5e-5", "kmeans:replay_rate=5e-5", "srm:train_perc=5e-5"])
def test_a_folder_name_with_a_small_rate_is_that_of_its_method(method: str) -> None:
    cls, settings = parse_method(method)
    assert method_of_experiment(cls.experiment(settings)) is cls


def test_settings_of_another_method_and_a_later_task_without_a_start_are_warned_of(methods: Methods) -> None:
    words = ("training.CL.ewc.reg_lambda=5", "training.CL.restore_rate=3", "training.CL.replay_rate=0.3")
    folder = methods.learn("attribute", *words, "training.max_updates=1")
    log = (folder / "train.log").read_text()
    for word in words:
        assert log.count(f"{word} has no effect: the methods of this run are ft") == 1
    assert "training.CL.reg_lambda" not in log and "training.CL.random.replay_rate" not in log
    assert "attribute is task 2 of the order but starts from the initial weights" in log
    folder = methods.learn("object", "training.max_updates=1")
    assert "WARNING" not in (folder / "train.log").read_text()


def test_a_single_task_model_does_not_start_from_another_model(methods: Methods) -> None:
    alone = ("training.CL.method=stand_alone", "training.max_updates=1")
    first = methods.learn("object", *alone)
    line = methods.error("attribute", *alone, methods.resume_file("object"))
    assert f"checkpoint.resume_file={first / 'unicl_final.pth'}" in line and "training.CL.method=stand_alone" in line
    (first / "unicl_final.pth").unlink()
    methods.learn("object", *alone)  # resumes its own checkpoint


def test_a_published_key_is_used_by_any_method_that_has_it(methods: Methods) -> None:
    words = ("training.CL.method=random", "training.CL.replay_rate=0.3", "training.CL.reg_lambda=5")
    log = (methods.learn("attribute", *words, "training.max_updates=1") / "train.log").read_text()
    assert "replay_rate=0.3 has no effect" not in log
    assert "training.CL.reg_lambda=5 has no effect: the methods of this run are random" in log


def test_a_published_key_that_selects_no_method_is_warned_of(methods: Methods) -> None:
    with pytest.warns(UserWarning, match="reg_type=mas has no effect without training.trainer=CL"):
        methods.learn("object", "training.CL.reg_type=mas", "training.max_updates=0")


def test_fewer_replays_than_the_rate_asks_for_are_logged(methods: Methods) -> None:
    words = ("training.CL.method=random", "training.max_updates=1", "training.CL.random.replay_rate=1.5")
    log = (methods.learn("attribute", *words) / "train.log").read_text()
    replays = re.search(r"to (\d+) real records of attribute \((\d+) of object, the rate asks for (\d+)\)", log)
    records, used, asked = map(int, replays.groups())
    assert asked == math.ceil(1.5 * records) > used


def test_a_method_that_computes_gradients_needs_another_precision_than_fp16() -> None:
    settings = {"method": "ewc", "use_replay": False, "use_cl": True}
    config = OmegaConf.create({"training": {"trainer": "mmf", "precision": "fp16", "CL": settings}})
    with pytest.raises(ConfigError, match="fp16 does not work with method ewc"):
        select_methods(config)


def test_a_buffer_without_the_scores_of_a_record_is_refused(methods: Methods) -> None:
    rate = "training.CL.derpp.replay_rate="
    first = methods.learn("object", "training.CL.method=derpp", f"{rate}0.1")
    words = ("training.CL.method=derpp", f"training.CL.previous_dir={first}", methods.resume_file("object"))
    line = methods.error("attribute", *words, f"{rate}0.5")
    assert "dark_scores.safetensors: has no scores of" in line and "derpp.replay_rate" in line


def test_importances_of_another_model_are_refused(methods: Methods) -> None:
    path = methods.folder / "other.safetensors"
    weights = {name: p.detach() for name, p in nn.Linear(2, 2).named_parameters()}
    write_importances(path, Importances(weights, {name: p.clone() for name, p in weights.items()}))
    line = methods.error("attribute", *EWC, f"training.CL.reg_params_pth={path}")
    assert "belongs to another model" in line and "and" in line


def test_importances_of_another_method_and_of_the_run_itself_are_refused(methods: Methods) -> None:
    first = methods.learn("object", *EWC) / "models" / "reg_params.safetensors"
    words = (*EWC, f"training.CL.reg_params_pth={first}", methods.resume_file("object"))
    assert "contains importances of ewc" in methods.error("attribute", *words, "training.CL.reg_type=mas")
    own = f"env.save_dir={methods.save_dir('object')}"
    assert "this run will write that file" in methods.error("attribute", *words, own, "checkpoint.resume=False")


@pytest.mark.parametrize("kind", ["empty", "cut", "code"])
def test_files_of_strangers_are_not_believed(methods: Methods, kind: str) -> None:
    class Code:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(methods.folder / "made"),)

    table = {"w": {"omega": torch.ones(2), "init_val": torch.ones(2)}}
    content = {"empty": b"", "cut": pickle.dumps(table)[:-20], "code": pickle.dumps(Code())}[kind]
    path = methods.folder / "reg_params.pkl"
    path.write_bytes(content)
    line = methods.error("attribute", *EWC, f"training.CL.reg_params_pth={path}")
    assert str(path) in line and ("damaged" in line or "was not loaded" in line)
    assert not (methods.folder / "made").exists()
