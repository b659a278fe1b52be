"""Each published language model, and models of other families, learn a task and generate accepted replays."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from accelerate import Accelerator
from srm_runs import Runs

from SRM.data import choose_prompts, read_prompts, training_records
from SRM.generate import Generator
from SRM.model import find_model, grow, load_model
from SRM.records import Generation, build_replay_record, refusal
from SRM.run import DTYPES
from SRM.settings import PUBLISHED_MODELS, parse
from SRM.tokens import read_sources, task_question_token, task_token
from SRM.training import TaskTraining

EPOCHS = 40


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PUBLISHED_MODELS, "tiny-llama", "tiny-qwen3"])
def test_a_model_learns_a_task_and_generates_replays(shared_world: Path, tmp_path: Path, name: str) -> None:
    flags = ["--model_name", name, "--max_length", "48", "--learning_rate", "1e-2"]
    settings = parse(Runs(shared_world, tmp_path).argv(*flags, setting="scene", order="abcdef"))
    task, current = settings.order[:2]
    accelerator = Accelerator(cpu=True)
    records = training_records(settings, task)
    model, tokens = load_model(find_model(settings.root, name), name)
    start, question_start = task_token(task), task_question_token(task)
    tokens.add(start, question_start)
    grow(model, tokens, seed=0)
    sources = read_sources(records, tokens, tokens.id(start), tokens.id(question_start))
    checkpoint = tmp_path / "training.safetensors"
    TaskTraining(settings, accelerator, model, tokens, sources, EPOCHS, task.name, checkpoint, lambda *_: None).run()

    prompts = choose_prompts(settings, read_prompts(settings, task, records), task, current)
    texts, cut = Generator(settings, model, tokens, DTYPES["no"]).texts(prompts, task)
    generations = [Generation(prompt, *pair) for prompt, pair in zip(prompts, texts, strict=True)]
    accepted = [one for one in generations if refusal(one, graph_must_end=model.config.is_encoder_decoder) is None]
    assert len(accepted) > len(prompts) / 2 and not any(cut)
    made = [build_replay_record(one, name, task.name, start, one.items[0], random.Random(0)) for one in accepted]
    assert {record["anno_source"] for record in made} == {f"{name}_replay"}
    assert all(record["gt_scene_graph_seq"][0] == f"{record['question_id']} [SEP]" for record in made)
    assert sum("color" in record["question"] for record in made) > len(made) / 2
