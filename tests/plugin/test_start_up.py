"""What is imported before a command line is answered: torch and MMF only once a configuration is valid."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmclvqa import cli
from tests.plugin.conftest import Runner

CONFIG = "config=EXP_CONFIG/functional/cl_object_unicl_standalone.yaml"
MMF_RUN = ("mmclvqa.cli", CONFIG, "model=unicl", "dataset=clvqa")
SRM = ("SRM.train", "--cl_setting", "functional", "--task_seq", "oarlks", "--model_dir_root", "{tmp}/srm")
EXPERIMENTS = ("mmclvqa.experiments", "run")
LOADED = """
import json, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print(json.dumps([name for name in ("torch", "mmf", "transformers") if name in sys.modules]))
"""
"""Runs a module as a program and prints which of the slow packages it has imported."""


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (MMF_RUN, ["training.max_update=3"], "unknown key training.max_update; did you mean training.max_updates?"),
        (MMF_RUN, ["training.CL.ewc.weigth=1"], "unknown key training.CL.ewc.weigth"),
        (MMF_RUN, ["training.max_updates=many"], "training.max_updates=many: it must be a whole number"),
        (MMF_RUN, ["config=nowhere.yaml"], "nowhere.yaml does not exist"),
        (MMF_RUN, ["nonsense"], "'nonsense' is not of the form key=value"),
        (MMF_RUN, ["env.user_dir=nowhere.py"], "env.user_dir=nowhere.py: there is no file"),
        (SRM, ["--data_dir", "{tmp}", "--n_train_epoch", "many"], "--n_train_epochs must be a whole number of at"),
        (SRM, ["--data_dir", "{tmp}/nowhere"], "nowhere: there is no such folder"),
        (SRM, ["--data_dir", "{tmp}"], "fcl_mmf_object_train.npy: there is no such file"),
        (EXPERIMENTS, ["--method", "ewcc"], "ewcc: there is no such method; did you mean ewc"),
        (EXPERIMENTS, ["--order", "oarlkx"], "oarlkx"),
    ],
)
def test_wrong_arguments_are_answered_before_torch_and_mmf_are_imported(
    program: tuple[str, ...], arguments: list[str], message: str, project: Path, tmp_path: Path
) -> None:
    words = [word.format(tmp=tmp_path) for word in (*program, *arguments)]
    done = subprocess.run([sys.executable, "-c", LOADED, *words], cwd=project, capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("word", ["--help", "-h"])
@pytest.mark.parametrize("overrides", [[], ["config=nowhere.yaml", "model=unicl"]])
def test_help_is_shown_wherever_it_is_asked_for(
    word: str, overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run([*overrides, word])
    assert ended.value.code == 0 and "usage: mmf_run config=" in capsys.readouterr().out


def prints(code: str, project: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_mmf_registers_the_plugin_and_imports_nothing_that_it_does_not_use(project: Path) -> None:
    slow = ("sklearn", "pandas", "scipy", "transformers", "torch._dynamo", "mmf.models.pythia", "mmf.models.m4c")
    code = (
        "import sys, mmf, mmclvqa, mmf_cli.run, mmf_cli.predict\n"
        "from mmf.common.registry import registry\n"
        "stand_ins = [name for name in mmclvqa.compat.OPTIONAL_PACKAGES\n"
        "             if isinstance(sys.modules.get(name), mmclvqa.compat._StandIn)]\n"
        f"print([name for name in {slow} if name in sys.modules], stand_ins, sep='')\n"
        "print(mmf_cli.run.run.__module__, mmf_cli.predict.predict.__module__)\n"
        "print(registry.get_model_class('unicl').__name__, registry.get_builder_class('clvqa').__name__,\n"
        "      registry.get_trainer_class('mmf').__name__)"
    )
    imported, *names = prints(code, project)
    assert imported == "[][]", "a slow library, or a stand-in that stays among the installed modules"
    assert names == ["mmclvqa.cli", "mmclvqa.cli", "UniVQA", "CloveBuilder", "Trainer"]


def test_training_imports_no_compiler_and_no_transformers(project: Path, mmf_run: Runner) -> None:
    slow = ("torch._dynamo", "torch.distributed.tensor", "transformers", "sympy", "sklearn", "pandas", "scipy")
    save_dir = mmf_run.folder / "object"
    words = mmf_run.overrides("training.max_updates=1", "training.num_workers=0", f"env.save_dir={save_dir}")
    code = (
        f"import os, sys; os.environ |= {mmf_run.environment}\n"
        "from mmclvqa.cli import run\n"
        f"run({words})\n"
        f"print('imported:', *(name for name in {slow} if name in sys.modules))"
    )
    assert prints(code, project)[-1] == "imported:"
    assert (save_dir / "unicl_final.pth").exists()


@pytest.mark.parametrize(
    "statements",
    [
        {"from mmf.models import Pythia": "Pythia.__name__ == 'Pythia'",
         "from mmf.models.visual_bert import VisualBERT": "VisualBERT.__name__ == 'VisualBERT'",
         "import mmf": "mmf.models.m4c.M4C.__name__ == 'M4C'"},
        {"from mmf.common.registry import registry\nfrom mmf.models.base_model import BaseModel\n"
         "Mine = registry.register_model('pythia')(type('Mine', (BaseModel,), {}))": "True",
         "lorra = registry.get_model_class('lorra')": "lorra.__name__ == 'LoRRA'",
         "pythia = registry.get_model_class('pythia')": "pythia is Mine",
         "vqa2 = registry.get_builder_class('vqa2')": "vqa2.__name__ == 'VQA2Builder'",
         "nobody = registry.get_model_class('nobody')": "nobody is None"},
        {"from mmf.modules.encoders import TransformerEncoder": "TransformerEncoder.__name__ == 'TransformerEncoder'",
         "from mmf.modules.metrics import f1_score": "f1_score([1, 0], [1, 0]) == 1",
         "from transformers.modeling_bert import BertModel": "BertModel.__name__ == 'BertModel'",
         "from transformers.optimization import AdamW": "AdamW.__name__ == 'AdamW'"},
    ],
    ids=["models", "registry, where the user has taken a name of MMF's", "modules"],
)  # fmt: skip
def test_what_is_imported_later_works_when_it_is_used(statements: dict[str, str], project: Path) -> None:
    lines = (f"{statement}\nprint({expected})" for statement, expected in statements.items())
    assert prints("\n".join(lines), project) == ["True"] * len(statements)


def test_schedules_and_tokenizers_of_transformers_are_imported_when_they_are_called(
    project: Path, clove_mini: Path
) -> None:
    code = (
        "import sys, torch\n"
        "from mmf.common.registry import registry\n"
        "from omegaconf import OmegaConf\n"
        "before = 'transformers' in sys.modules\n"
        "optimizer = registry.get_optimizer_class('adam_w')([torch.nn.Parameter(torch.ones(1))], lr=1.0)\n"
        "warmup = registry.get_scheduler_class('warmup_linear')\n"
        "schedule = warmup(optimizer, num_warmup_steps=2, num_training_steps=4)\n"
        f"source = {str(clove_mini / 'pretrained' / 'bert-base-uncased')!r}\n"
        "config = {'tokenizer_config': {'type': source, 'params': {}}, 'max_seq_length': 5}\n"
        "tokenizer = registry.get_processor_class('masked_token')(OmegaConf.create(config))\n"
        "print(before, type(optimizer).__name__, schedule.get_last_lr()[0], tokenizer.get_vocab_size() > 5)"
    )
    assert prints(code, project) == ["False", "AdamW", "0.0", "True"]
