"""The pretrained language models of clove-mini, as DistilGPT-2 and BERT are for CLOVE.

Both are trained on scene graphs and statements about scenes that no data set has, such as "red cup, kitchen, lemon left
of cup. the cup is red. the cup is used for drinking." There is no question in this text. The weights are committed,
because the training takes longer than the demo. This command writes them again, in about half an hour::

    python -m mmclvqa.mini.pretraining

On one machine the result is the same in every run; on another, rounding may differ.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mmclvqa.clove import data_root
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import atomic_write
from mmclvqa.mini.scenes import Scene, Thing, named_random, sample_scenes, sample_text_scenes

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from transformers import PreTrainedModel

WEIGHTS = Path(__file__).parent / "weights"
"""The committed weights, in float16."""
BERT_WEIGHTS, GPT2_WEIGHTS = "bert.safetensors", "gpt2.safetensors"
TIED = ("lm_head.weight",)
"""Weights that are tied to the input embeddings and not stored."""
SEED = 2023
"""Seed of the text and of the training; scenes of clove-mini have other names and seeds."""
DOCUMENTS = 30_000
MOST_STATEMENTS = 4
BATCH_SIZE = 32
WARMUP_UPDATES = 100
MASKED = 0.2
"""Share of the tokens that BERT predicts."""
LARGEST_NORM = 1.0
IGNORED = -100
GPT2_UPDATES = 3000
BERT_UPDATES = 3000
LEARNING_RATE = 2e-3
NO_DROPOUT = dict.fromkeys(
    ("resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0
)


def documents(seed: int, count: int, separator: str) -> Iterator[str]:
    """Yield texts: some or all items of a scene, joined by ``separator``, and statements that follow from them."""
    scenes = sample_scenes(seed, "pretraining", count - count // 4)
    scenes += sample_text_scenes(seed, "pretraining", count // 4)
    for index, scene in enumerate(scenes):
        rng = named_random(seed, "pretraining", index)
        told = {item: _statements_of(item, scene) for item in scene.items}
        told |= {" ".join(thing.fact): _about_fact(thing) for thing in scene.things}
        items = rng.sample(list(told), rng.randint(1, len(told)))
        statements = [statement for item in items for statement in told[item]]
        statements += [statement for pair in _pairs(items, scene) for statement in _about_pair(*pair)]
        chosen = rng.sample(statements, min(len(statements), MOST_STATEMENTS))
        yield f"{separator.join(items)}. {' '.join(chosen)}"


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


def _about_fact(thing: Thing) -> list[str]:
    name, predicate, purpose = thing.fact
    return [f"the {name} is {predicate} {purpose}.", f"the thing that is {predicate} {purpose} is the {name}."]


def _pairs(items: list[str], scene: Scene) -> Iterator[tuple[Thing, Thing]]:
    """Yield pairs of things among the items that have an attribute of the same kind."""
    things = [thing for item in items for thing in scene.things if item == thing.phrase]
    for first in things:
        yield from ((first, second) for second in things if second is not first and second.kind == first.kind)


def _about_pair(first: Thing, second: Thing) -> list[str]:
    names = f"the {first.name} and the {second.name}"
    if first.value == second.value:
        return [f"{names} have the same {first.kind}.", f"the {first.kind} of both {names} is {first.value}."]
    return [
        f"{names} do not have the same {first.kind}.",
        f"of {names}, the {first.value} one is the {first.name}.",
        f"of {names}, the {second.value} one is the {second.name}.",
    ]


def gpt2_loss(model: PreTrainedModel, ids: Tensor, real: Tensor, generator: Generator) -> Tensor:
    """Return the mean loss of the next tokens; ``ids`` and ``real`` are B×L."""
    return model(input_ids=ids, labels=ids.masked_fill(~real, IGNORED)).loss


def bert_loss(model: PreTrainedModel, ids: Tensor, real: Tensor, generator: Generator, mask: int) -> Tensor:
    """Return the mean loss of masked tokens; ``ids`` and ``real`` are B×L, ``mask`` is the id of ``[MASK]``."""
    import torch

    masked = (torch.rand(ids.shape, generator=generator) < MASKED) & real
    masked[:, 1] = True  # the first token after [CLS], so that every batch has a loss
    labels = ids.masked_fill(~masked, IGNORED)
    return model(input_ids=ids.masked_fill(masked, mask), attention_mask=real.long(), labels=labels).loss


def pretrain(
    model: PreTrainedModel,
    texts: list[list[int]],
    loss_of: Callable[[PreTrainedModel, Tensor, Tensor, Generator], Tensor],
    updates: int,
    learning_rate: float,
) -> None:
    """Train a language model in place with AdamW, warm-up and linear decay.

    Args:
        model: the model.
        texts: token ids of each text.
        loss_of: :func:`gpt2_loss` or :func:`bert_loss`.
        updates: number of updates, of :data:`BATCH_SIZE` texts of about equal length.
        learning_rate: the highest learning rate.
    """
    import torch

    generator = torch.Generator().manual_seed(SEED)
    texts = sorted(texts, key=len)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    model.train()
    total, started = 0.0, time.monotonic()
    for update in range(updates):
        rate = learning_rate * min(1, (update + 1) / WARMUP_UPDATES) * (1 - update / updates)
        for group in optimizer.param_groups:
            group["lr"] = rate
        first = int(torch.randint(0, len(texts) - BATCH_SIZE, (), generator=generator))
        batch = [torch.tensor(text) for text in texts[first : first + BATCH_SIZE]]
        ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
        real = torch.arange(ids.size(1)) < torch.tensor([len(text) for text in batch])[:, None]
        loss = loss_of(model, ids, real, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_NORM)
        optimizer.step()
        total += loss.item()
        if (update + 1) % 250 == 0:
            print(f"update {update + 1}: loss {total / 250:.3f}, {time.monotonic() - started:.0f} s", flush=True)
            total = 0.0


def pretrained_weights(file: Path, vocabulary: Sequence[str]) -> dict[str, Tensor]:
    """Return the weights of a file of :data:`WEIGHTS` by parameter name, in float32.

    Raises:
        DataError: they were trained with another vocabulary.
    """
    from safetensors import safe_open

    with safe_open(file, "pt") as weights:
        if weights.metadata()["vocabulary"] != _digest(vocabulary):
            raise DataError(f"{file}: of another vocabulary; python -m mmclvqa.mini.pretraining trains it again")
        return {name: weights.get_tensor(name).float() for name in weights.keys()}  # noqa: SIM118 (not a dict)


def write_weights(folder: Path, gpt2_updates: int = GPT2_UPDATES, bert_updates: int = BERT_UPDATES) -> None:
    """Pretrain GPT-2 and BERT, and write their weights to ``folder``."""
    import torch
    from safetensors.torch import save
    from transformers import AutoConfig, AutoTokenizer, BertForMaskedLM, GPT2LMHeadModel

    from mmclvqa.mini.pretrained import write_language_models

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as untrained:
        write_language_models(Path(untrained), SEED, pretrained=False)
        for path, file, model_class, separator, updates in (
            (data_root.DISTILGPT2, GPT2_WEIGHTS, GPT2LMHeadModel, ", ", gpt2_updates),
            (data_root.BERT, BERT_WEIGHTS, BertForMaskedLM, " [SEP] ", bert_updates),
        ):
            config = AutoConfig.from_pretrained(Path(untrained) / path, **NO_DROPOUT)
            tokenizer = AutoTokenizer.from_pretrained(Path(untrained) / path)
            ids = tokenizer(list(documents(SEED, DOCUMENTS, separator)))["input_ids"]
            torch.manual_seed(SEED)
            model = model_class(config)
            print(f"{model_class.__name__}: {updates} updates", flush=True)
            if model_class is GPT2LMHeadModel:
                pretrain(model, [[*text, config.eos_token_id] for text in ids], gpt2_loss, updates, LEARNING_RATE)
                weights = model.state_dict()
            else:
                loss = partial(bert_loss, mask=tokenizer.mask_token_id)
                pretrain(model, ids, loss, updates, LEARNING_RATE)
                weights = model.bert.state_dict()
            halves = {name: value.half().contiguous() for name, value in weights.items() if name not in TIED}
            vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
            with atomic_write(folder / file, "wb") as target:
                target.write(save(halves, metadata={"vocabulary": _digest(vocabulary)}))


def _digest(vocabulary: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(vocabulary).encode()).hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m mmclvqa.mini.pretraining", description="Pretrain both models.")
    parser.add_argument("--out", type=Path, default=WEIGHTS, metavar="DIR", help="default: %(default)s")
    write_weights(parser.parse_args().out)
