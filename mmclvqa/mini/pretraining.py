"""The pretrained GPT-2 of clove-mini, as DistilGPT-2 is for CLOVE.

It is trained on scene graphs and statements about scenes that no data set has, such as "red cup, kitchen, lemon left
of cup. the cup is red. the cup is used for drinking." There is no question in this text. The weights are committed,
because the training takes longer than the demo. This command writes them again, in about ten minutes::

    python -m mmclvqa.mini.pretraining

On one machine the result is the same in every run; on another, rounding may differ.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmclvqa.clove.data_root import DISTILGPT2
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import atomic_write
from mmclvqa.mini.scenes import Scene, Thing, named_random, sample_scenes, sample_text_scenes

if TYPE_CHECKING:
    from torch import Tensor

GPT2_WEIGHTS = Path(__file__).parent / "weights/gpt2.safetensors"
"""The committed weights, in float16."""
TIED = ("lm_head.weight",)
"""Weights that are tied to the input embeddings and not stored."""
SEED = 2023
"""Seed of the text and of the training; scenes of clove-mini have other names and seeds."""
DOCUMENTS = 30_000
MOST_STATEMENTS = 4
BATCH_SIZE = 32
WARMUP_UPDATES = 100
LARGEST_NORM = 1.0
IGNORED = -100
LOG_INTERVAL = 250
UPDATES = 3000
LEARNING_RATE = 2e-3
NO_DROPOUT = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)


def documents(seed: int, count: int) -> Iterator[str]:
    """Yield texts: some or all items of a scene, and statements that follow from them."""
    scenes = sample_scenes(seed, "pretraining", count - count // 4)
    scenes += sample_text_scenes(seed, "pretraining", count // 4)
    for index, scene in enumerate(scenes):
        rng = named_random(seed, "pretraining", index)
        statements_by_item = {item: _statements_of(item, scene) for item in scene.items}
        for name, predicate, purpose in (thing.fact for thing in scene.things):
            statements_by_item[f"{name} {predicate} {purpose}"] = [
                f"the {name} is {predicate} {purpose}.",
                f"the thing that is {predicate} {purpose} is the {name}.",
            ]
        items = rng.sample(list(statements_by_item), rng.randint(1, len(statements_by_item)))
        statements = [statement for item in items for statement in statements_by_item[item]]
        things = [thing for item in items for thing in scene.things if item == thing.phrase]
        for first, second in itertools.permutations(things, 2):
            statements += _about_pair(first, second) if second.kind == first.kind else ()
        chosen = rng.sample(statements, min(len(statements), MOST_STATEMENTS))
        yield f"{', '.join(items)}. {' '.join(chosen)}"


def _statements_of(item: str, scene: Scene) -> list[str]:
    """Return what one item of a scene says, in sentences."""
    for thing in scene.things:
        if item == thing.phrase:
            return [
                f"the {thing.name} is {thing.value}.",
                f"the {thing.value} thing is the {thing.name}.",
                f"the {thing.value} {thing.category} is the {thing.name}.",
                f"the {thing.kind} of the {thing.name} is {thing.value}.",
            ]
    for surface in scene.surfaces:
        if item == surface.phrase:
            return [f"{surface.word} is written on the {surface.color} {surface.name}."]
    for subject, word, anchor in scene.relations:
        first, second = scene.things[subject], scene.things[anchor]
        if item == f"{first.name} {word} {second.name}":
            return [
                f"the {first.category} {word} the {second.name} is the {first.name}.",
                f"the {first.name} is {word} the {second.name}.",
            ]
    return [f"this place is the {item}."]


def _about_pair(first: Thing, second: Thing) -> list[str]:
    names = f"the {first.name} and the {second.name}"
    if first.value == second.value:
        return [f"{names} have the same {first.kind}.", f"the {first.kind} of both {names} is {first.value}."]
    return [
        f"{names} do not have the same {first.kind}.",
        f"of {names}, the {first.value} one is the {first.name}.",
        f"of {names}, the {second.value} one is the {second.name}.",
    ]


def pretrained_weights(file: Path, vocabulary: Sequence[str]) -> dict[str, Tensor]:
    """Return the weights of a file such as :data:`GPT2_WEIGHTS` by parameter name, in float32.

    Raises:
        DataError: they were trained with another vocabulary.
    """
    from safetensors import safe_open

    with safe_open(file, "pt") as weights:
        if weights.metadata()["vocabulary"] != _digest(vocabulary):
            raise DataError(
                f"{file}: was trained with a different vocabulary; "
                "run `python -m mmclvqa.mini.pretraining` to retrain it"
            )
        return {name: weights.get_tensor(name).float() for name in weights.keys()}  # noqa: SIM118 (not a dict)


def write_weights(path: Path, updates: int = UPDATES) -> None:
    """Pretrain GPT-2 with AdamW, warm-up and linear decay on texts of about equal length, and write its weights."""
    import torch
    from safetensors.torch import save
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from mmclvqa.mini.pretrained import write_pretrained

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        write_pretrained(Path(root), SEED, feature_dim=1, pretrained=False)
        config = GPT2Config.from_pretrained(Path(root) / DISTILGPT2, **NO_DROPOUT)
        tokenizer = AutoTokenizer.from_pretrained(Path(root) / DISTILGPT2)
    ids = tokenizer(list(documents(SEED, DOCUMENTS)))["input_ids"]
    torch.manual_seed(SEED)
    model = GPT2LMHeadModel(config)
    texts = sorted(([*text, config.eos_token_id] for text in ids), key=len)
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    model.train()
    total, started = 0.0, time.monotonic()
    for update in range(updates):
        rate = LEARNING_RATE * min(1, (update + 1) / WARMUP_UPDATES) * (1 - update / updates)
        for group in optimizer.param_groups:
            group["lr"] = rate
        first = int(torch.randint(0, len(texts) - BATCH_SIZE, (), generator=generator))
        batch = [torch.tensor(text) for text in texts[first : first + BATCH_SIZE]]
        inputs = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
        labels = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=IGNORED)
        loss = model(input_ids=inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_NORM)
        optimizer.step()
        total += loss.item()
        if (update + 1) % LOG_INTERVAL == 0:
            seconds = time.monotonic() - started
            print(f"update {update + 1}: loss {total / LOG_INTERVAL:.3f}, {seconds:.0f} s", flush=True)
            total = 0.0
    halves = {name: value.half().contiguous() for name, value in model.state_dict().items() if name not in TIED}
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    with atomic_write(path, "wb") as file:
        file.write(save(halves, metadata={"vocabulary": _digest(vocabulary)}))


def _digest(vocabulary: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(vocabulary).encode()).hexdigest()


if __name__ == "__main__":
    name = "python -m mmclvqa.mini.pretraining"
    parser = argparse.ArgumentParser(prog=name, description="Pretrain clove-mini's GPT-2.")
    parser.add_argument("--out", type=Path, default=GPT2_WEIGHTS, metavar="FILE", help="default: %(default)s")
    write_weights(parser.parse_args().out)
