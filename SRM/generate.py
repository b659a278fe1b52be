"""Generation of scene graphs, questions and answers for prompts.

For a prompt's items the scene graph is searched for with 5 beams in which no two tokens follow each other twice,
and question and answer greedily. Prompts are worked on in the order of their length.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from SRM.data import Prompt
from SRM.examples import cut_items
from SRM.model import longest_sequence
from SRM.packed import packed
from SRM.rows import GrowingRows, rows_for
from SRM.search import Search
from SRM.settings import Settings
from SRM.tokens import Tokens

BEAMS = 5
MOST_ROWS = 4096
"""Rows beyond which a larger batch gains nothing."""
CPU_BYTES = 2 << 30
"""Cache on a CPU. A fixed number, not what happens to be free: the same command gives the same batches."""
GPU_SHARE = 0.5
"""Share of a GPU's memory that the cache may take."""

Report = Callable[[int], object]


@dataclass(frozen=True)
class _Pass:
    """One of the two passes over a prompt.

    Attributes:
        fed: ids that the model is given.
        shown: ids that the text begins with; the same for decoder-only models.
    """

    fed: list[int]
    shown: list[int]


class Generator:
    """Writes texts with a trained model.

    Args:
        settings: of the run.
        model: trained, on its device.
        tokens: its tokenizer.
        dtype: what is computed in.
    """

    def __init__(self, settings: Settings, model: Any, tokens: Tokens, dtype: torch.dtype) -> None:
        self.settings, self.tokens = settings, tokens
        self.model = model.eval() if dtype == torch.float32 else copy.deepcopy(model).to(dtype).eval()
        self.dtype = dtype
        self.seq2seq = model.config.is_encoder_decoder
        self.longest = min(settings.max_length, longest_sequence(model, tokens))
        self.rows: GrowingRows | None = None
        if settings.generator != "hf":
            on_onednn = model.config.model_type == "gpt2" and model.device.type == "cpu" and dtype == torch.float32
            searched = packed(self.model) if on_onednn else self.model
            self.rows = rows_for(searched, self._row_count(), self.longest, dtype)

    def texts(
        self, prompts: Sequence[Prompt], start: str, question_start: str, report: Report = lambda count: None
    ) -> tuple[list[tuple[str, str]], list[bool]]:
        """Scene-graph text and question-answer text of every prompt.

        Args:
            prompts: their items.
            start: the token that the task's sequences begin with.
            question_start: the token that its questions begin with, encoder-decoder only.
            report: told how many passes have finished since the last call; a prompt has two.

        Returns:
            The texts in the order of ``prompts``, and whether each had to be cut to half the longest sequence.
        """
        tokens = self.tokens
        joined = [
            cut_items([tokens.ids(item) for item in prompt], self.longest // 2, tokens.sep)
            for prompt in prompts
        ]
        order = sorted(range(len(prompts)), key=lambda i: len(joined[i][0]))
        begin, ask = tokens.id(start), tokens.id(question_start)
        graphs, questions = [], []
        for i in order:
            ids = joined[i][0]
            graph, question = [begin, *ids, tokens.sep], [begin, *ids, tokens.question]
            graphs.append(_Pass(graph, graph))
            questions.append(_Pass([ask, *ids, ask] if self.seq2seq else question, question))
        sides = [self._continued(graphs, BEAMS, report), self._continued(questions, 1, report)]
        found = dict(zip(order, zip(*sides, strict=True), strict=True))
        return [found[i] for i in range(len(prompts))], [cut for _, cut in joined]

    def _continued(self, passes: list[_Pass], beams: int, report: Report) -> list[str]:
        """The texts of passes, given in the order of their length."""
        fed = [one.fed for one in passes]
        if self.rows:
            told = Search(
                self.tokens.eos,
                self.tokens.pad,
                self.longest,
                beams,
                unique_pairs=beams > 1,
                length_rule=self.settings.length_rule,
            ).run(self.rows, fed, report)
        else:
            told = [
                ids
                for batch in self._equal_lengths(fed, beams)
                for ids in self._library(batch, beams, report)
            ]
        return [self.tokens.text([*one.shown, *ids]) for one, ids in zip(passes, told, strict=True)]

    def _equal_lengths(self, fed: list[list[int]], beams: int) -> Iterator[list[list[int]]]:
        """Batches of equally long prompts: openai-gpt knows no padding, and the others need none."""
        most = max(1, self._row_count() // beams)
        for _, same in groupby(fed, key=len):
            batch = list(same)
            yield from (batch[at : at + most] for at in range(0, len(batch), most))

    @torch.inference_mode()
    def _library(self, batch: list[list[int]], beams: int, report: Report) -> list[list[int]]:
        """transformers' own search."""
        beam = {"num_beams": beams, "early_stopping": True, "no_repeat_ngram_size": 2} if beams > 1 else {}
        input_ids = torch.tensor(batch, device=self.model.device)
        made = self.model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_length=self.longest,
            do_sample=False,
            **beam,
        )
        report(len(batch))
        first = 1 if self.seq2seq else input_ids.shape[1]
        return [_until(ids, self.tokens.eos) for ids in made[:, first:].tolist()]

    def _row_count(self) -> int:
        """Rows that are held at a time."""
        slots = self.settings.test_batch_size
        if not slots:
            device = self.model.device
            total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
            slots = int(total * GPU_SHARE or CPU_BYTES) // slot_bytes(self.model, self.dtype)
        return min(MOST_ROWS, max(BEAMS, slots // self.longest))


def slot_bytes(model: Any, dtype: torch.dtype) -> int:
    """Bytes of keys and values that one token of one row takes."""
    config = model.config
    return 2 * config.num_hidden_layers * config.hidden_size * dtype.itemsize


def _until(ids: list[int], eos: int) -> list[int]:
    return ids[: ids.index(eos) + 1] if eos in ids else ids
