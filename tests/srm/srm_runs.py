"""A tiny data root with tiny language models of all five names and of other families, and runs of SRM on it."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    OpenAIGPTTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from mmclvqa.clove.prompts import save_prompts
from mmclvqa.clove.records import new_record, save_records
from mmclvqa.clove.tasks import Task, tasks
from SRM.folder import RunFolder
from SRM.settings import parse
from SRM.train import main

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
TRAIN = Path(__file__).resolve().parents[2] / "SRM" / "train.py"
COLORS = ("red", "blue", "green", "white")
THINGS = ("cup", "dog", "tree", "car", "table")
RECORDS = 24
TRAINED = (
    *("--n_train_epochs", "8", "--learning_rate", "1e-2", "--n_replay", "3"),
    *("--adam_epsilon", "1e-8", "--dropout", "0", "--min_batch_size", "8"),
)
"""Flags of a run in which most generated texts are accepted."""
FAMILIES = ("tiny-llama", "tiny-qwen3", "tiny-flan-t5")
"""Models that are not among the published ones, in the same folder."""
DEBUG = ("--debug", "--n_prompts", "2", "--max_length", "20")
"""Flags of a run in seconds, in which no generated text is accepted."""


def record(rng: random.Random, task: Task, number: int) -> dict:
    """Return a record about one colored thing among three, with as many related items as prompts of the task."""
    things = rng.sample(THINGS, 3)
    colors = [rng.choice(COLORS) for _ in things]
    items = [f"{color} {thing} [SEP]" for color, thing in zip(colors, things, strict=True)]
    return new_record(
        question_id=f"{task.name}{number}",
        question=f"what color is the {things[1]}?",
        answer=colors[1],
        answers=[colors[1]] * 10,
        gt_scene_graph_seq=items,
        gt_scene_graph_mask=[0, 1, int(task.prompt_items > 1)],
        pred_scene_graph_seq=items,
        stage=task.name,
        set_name="train",
    )


def _models(root: Path) -> None:
    """Write untrained models that are small enough to be trained in seconds."""
    torch.manual_seed(0)
    gpt2 = GPT2Tokenizer.from_pretrained(FIXTURES / "tiny_gpt2")
    for name in ("gpt2", "distilgpt2"):
        config = GPT2Config(vocab_size=len(gpt2), n_positions=64, n_embd=32, n_layer=2, n_head=2)
        config.bos_token_id = config.eos_token_id = 0
        GPT2LMHeadModel(config).save_pretrained(root / name)
        gpt2.save_pretrained(root / name)
    letters = "abcdefghijklmnopqrstuvwxyz?[]_#"
    symbols = ["<unk>", *letters, *(f"{letter}</w>" for letter in letters)]
    gpt = OpenAIGPTTokenizer(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[])
    OpenAIGPTLMHeadModel(
        OpenAIGPTConfig(vocab_size=len(symbols), n_positions=96, n_embd=32, n_layer=1, n_head=2)
    ).save_pretrained(root / "openai-gpt")
    gpt.save_pretrained(root / "openai-gpt")
    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters, *(f"▁{word}" for word in (*COLORS, *THINGS, "what", "is"))]
    t5 = T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)
    for name, gated in (("t5-small", "relu"), ("t5v1_1-small", "gated-gelu"), ("tiny-flan-t5", "gated-gelu")):
        config = T5Config(
            vocab_size=len(t5),
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=1,
            num_heads=4,
            initializer_factor=0.3,
            feed_forward_proj=gated,
            n_positions=64,
            decoder_start_token_id=0,
        )
        config.tie_word_embeddings = name == "t5-small"
        T5ForConditionalGeneration(config).save_pretrained(root / name)
        t5.save_pretrained(root / name)
    sizes = {"vocab_size": len(gpt2) + 3, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(root / "tiny-llama")
    gpt2.save_pretrained(root / "tiny-llama")
    qwen = Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=16, tie_word_embeddings=True))
    # As published, with sampling and penalties that must not reach the replays.
    qwen.generation_config.update(do_sample=True, top_k=20, repetition_penalty=1.5, eos_token_id=[1, 2])
    qwen.save_pretrained(root / "tiny-qwen3")
    Qwen2Tokenizer.from_pretrained(FIXTURES / "tiny_gpt2").save_pretrained(root / "tiny-qwen3")


def make_root(root: Path) -> Path:
    """Write a data root with the annotations and prompts of both settings, and with models."""
    for setting in ("functional", "scene"):
        prompts = {}
        for task in tasks(setting).values():
            rng = random.Random(task.name)
            records = [record(rng, task, number) for number in range(RECORDS)]
            save_records(root / task.annotation_path("train"), records)
            prompts[task.name] = [[f"{rng.choice(COLORS)} {rng.choice(THINGS)}" for _ in range(3)] for _ in range(40)]
        save_prompts(root / f"scene_graph_prompts/{setting}.json", prompts)
    _models(root / "pretrained")
    return root


@pytest.fixture(scope="session")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data root; tests must not change it."""
    return make_root(tmp_path_factory.mktemp("srm") / "data")


@pytest.fixture
def world(shared_world: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data root that a test may change."""
    return Path(shutil.copytree(shared_world, tmp_path / "data"))


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Reset accelerate, which otherwise keeps the precision of the first run of a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@dataclass
class Runs:
    """Runs of the command line in this process."""

    data: Path
    root: Path
    capsys: pytest.CaptureFixture[str] | None = None

    def argv(self, *flags: str, setting: str = "functional", order: str = "oarlks") -> list[str]:
        """Return the command line of a small run, with further ``flags``."""
        return [
            *("--cl_setting", setting, "--task_seq", order, "--model_dir_root", str(self.root)),
            *("--data_dir", str(self.data), "--add_task_tokens", "--n_train_epochs", "2", "--n_prompts", "8"),
            *("--max_length", "40", "--learning_rate", "5e-3", "--n_workers", "0", "--n_gpus", "0"),
            *flags,
        ]

    def __call__(self, *flags: str, **named: str) -> Path:
        """Run and return the run folder."""
        code = main(self.argv(*flags, **named))
        assert code == 0, self.capsys and self.capsys.readouterr().err
        return next(self.root.glob("*_replay/*"))

    def error(self, *flags: str, **named: str) -> str:
        """Run a command line that must fail and return its error, which must be one line."""
        code = main(self.argv(*flags, **named))
        error = self.capsys.readouterr().err
        lines = [line for line in error.splitlines() if line.startswith("error: ")]
        assert code == 1 and len(lines) == 1 and "Traceback" not in error, error
        return lines[0]


@pytest.fixture(scope="session")
def trained(shared_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with :data:`TRAINED`, whose models have learned to generate; tests must not change it."""
    return Runs(shared_world, tmp_path_factory.mktemp("trained") / "exp")(*TRAINED)


@pytest.fixture
def srm(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runs:
    """Runs on a copy of the tiny data root."""
    return Runs(world, tmp_path / "exp", capsys)


def kill_when(srm: Runs, flags: tuple[str, ...], reached: Callable[[Path], bool]) -> None:
    """Start the run in another process and kill it as soon as ``reached`` is true of the run folder."""
    argv = srm.argv(*flags)
    process = subprocess.Popen([sys.executable, TRAIN, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = RunFolder(parse(argv)).path
    while not reached(folder):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def file_bytes(folder: Path, pattern: str = "**/*") -> dict[str, bytes]:
    """Return the content of every file below ``folder``, except logs, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.glob(pattern))
        if path.is_file() and path.suffix != ".txt"
    }


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
