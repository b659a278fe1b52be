"""Beam search and greedy search over :mod:`SRM.rows`, in which waiting prompts take the rows of finished ones.

Beam search is that of transformers' ``generate()`` with ``early_stopping=True`` and length penalty 1. Of the 2 x beams
best continuations of a prompt, those that end and are among the first ``beams`` are kept as finished, and the best
``beams`` of the others continue. A prompt is complete when ``beams`` sequences have finished. Its result is the
finished sequence with the highest score, the log-probability divided by a length:

``published``
    The rule of transformers 3.4 to 4.10, with which the published code runs. The length is that of the whole
    sequence, with the prompt and without eos. At the maximum length, a prompt that is not complete adds its ``beams``
    open sequences to the finished ones.
``generated``
    The rule of current transformers. The length is that of the generated tokens, eos included. At the maximum length,
    open sequences count as finished if they are among the first ``beams`` continuations.

Greedy search is beam search with one beam, for which both rules agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from SRM.batches import padded
from SRM.rows import Rows

Report = Callable[[int], object]
"""Called with the number of prompts or texts that were completed since the last call."""
ROOM = 8
"""New prompts are added when 1 / ROOM of the rows are free, since each addition is a forward pass."""


class _Groups(SimpleNamespace):
    """The n prompts in progress, each with its beams; row ``i * beams + j`` holds beam j of prompt i.

    Attributes:
        prompt: int64 n, index of the prompt.
        prompt_length: int64 n, tokens of the prompt; for an encoder-decoder model 1, the decoder's start token.
        length: int64 n, tokens so far, including the prompt.
        text: int64 n x beams x longest.
        score: float32 n x beams, sums of log-probabilities.
        best_score, best_length, best_text: the best finished sequence (float64 n, int64 n, int64 n x longest).
        finished: int64 n, number of finished sequences.
    """

    def __len__(self) -> int:
        return len(self.prompt)

    def pick(self, index: Tensor) -> _Groups:
        """Return the prompts at ``index``, in its order."""
        return _Groups(**{name: values[index] for name, values in vars(self).items()})

    def joined(self, other: _Groups) -> _Groups:
        """Return these prompts followed by ``other``."""
        return _Groups(**{name: torch.cat([values, getattr(other, name)]) for name, values in vars(self).items()})


@dataclass(frozen=True)
class Search:
    """A search for continuations of prompts.

    Attributes:
        eos, pad: token ids.
        longest: maximum number of tokens of a sequence, including its prompt.
        beams: number of beams; 1 is greedy search.
        unique_pairs: no bigram occurs twice in a sequence, including its prompt (``no_repeat_ngram_size=2``).
        length_rule: one of :data:`SRM.settings.LENGTH_RULES`.
    """

    eos: int
    pad: int
    longest: int
    beams: int = 1
    unique_pairs: bool = False
    length_rule: str = "published"

    @torch.inference_mode()
    def run(self, rows: Rows, prompts: Sequence[Sequence[int]], report: Report = lambda _: None) -> list[list[int]]:
        """Generate a continuation of every prompt.

        Args:
            rows: at least ``beams`` rows; their content is discarded.
            prompts: ids; for a decoder each shorter than ``longest``. They are processed in their order, most
                efficiently when sorted by length.
            report: called when prompts are completed.

        Returns:
            The generated ids of each prompt, including ``eos`` where it was reached.
        """
        rows.resize(0)
        results: list[list[int]] = [[] for _ in prompts]
        max_prompts = rows.capacity // self.beams
        waiting, groups = 0, None
        while waiting < len(prompts) or groups is not None:
            active = len(groups) if groups else 0
            room = rows.joins and max_prompts - active >= max(1, max_prompts // ROOM)
            if waiting < len(prompts) and (room or not active):
                end = min(len(prompts), waiting + max_prompts - active)
                new = self._begin(rows, prompts, range(waiting, end))
                groups = groups.joined(new) if groups else new
                waiting = end
            else:
                position = (groups.length - 1)[:, None, None].expand(-1, self.beams, 1)
                last_token = groups.text.gather(2, position).flatten()
                self._advance(rows, groups, rows.step(last_token), 0, self.beams)
            groups = self._retire(rows, groups, results, report)
        return results

    def _begin(self, rows: Rows, prompts: Sequence[Sequence[int]], chosen: range) -> _Groups:
        """Add prompts with one row each, then copy each row to all of its beams."""
        texts = [prompts[i] for i in chosen]
        device, first, count = rows.device, rows.used, len(texts)
        logits = rows.append(texts, self.pad)
        length = rows.lengths[first : rows.used].clone()
        text = padded(rows.sequences(texts), self.pad, self.longest).to(device)
        groups = _Groups(
            prompt=torch.tensor(list(chosen), device=device),
            prompt_length=length,
            length=length.clone(),
            text=text[:, None].repeat(1, self.beams, 1),
            score=torch.zeros(count, self.beams, device=device),
            best_score=torch.full((count,), -torch.inf, dtype=torch.float64, device=device),
            best_length=length.clone(),
            best_text=text,
            finished=torch.zeros(count, dtype=torch.long, device=device),
        )
        rows.resize(first + count * self.beams)
        row_index = torch.arange(count * self.beams, device=device)
        rows.copy(first + row_index // self.beams, first + row_index)
        self._advance(rows, groups, logits, first, 1)
        return groups

    def _advance(self, rows: Rows, groups: _Groups, logits: Tensor, first: int, alive: int) -> None:
        """Select the next token of every beam.

        Args:
            rows: the rows of the beams.
            groups: the prompts in progress; updated in place.
            logits: float32, (prompts x alive) x vocabulary; may be overwritten.
            first: the first row of the groups.
            alive: number of distinct beams of a prompt: 1 directly after the prompt, else ``beams``.
        """
        count, beams = len(groups), self.beams
        normalizer = torch.logsumexp(logits, -1)
        if self.unique_pairs:
            self._forbid_pairs(groups, logits, alive)
        best, token = logits.topk(2 * beams, -1)
        score = (best - normalizer[:, None]).view(count, alive, -1) + groups.score[:, :alive, None]
        score, choice = score.flatten(1).topk(2 * beams, -1)
        token = token.view(count, -1).gather(1, choice)
        parent = choice // (2 * beams)

        length = groups.length + 1
        full = length == self.longest
        ends = token == self.eos
        if self.length_rule == "generated":
            ends = ends | full[:, None]
        finished = ends.clone()
        finished[:, beams:] = False
        scored_length = groups.length if self.length_rule == "published" else length - groups.prompt_length
        self._keep_best(groups, score.masked_fill(~finished, -torch.inf), token, parent, scored_length)
        groups.finished = groups.finished + finished.sum(-1)

        open_score, order = score.masked_fill(ends, -torch.inf).topk(beams, -1)
        token, parent = token.gather(1, order), parent.gather(1, order)
        if self.length_rule == "published" and bool(full.any()):
            still_open = full & (groups.finished < beams)
            self._keep_best(groups, open_score.masked_fill(~still_open[:, None], -torch.inf), token, parent, length)
        slot = _slots(parent)
        groups.score = torch.empty_like(open_score).scatter_(1, slot, open_score)
        token = torch.empty_like(token).scatter_(1, slot, token)
        parent = torch.empty_like(parent).scatter_(1, slot, parent)
        groups.text = groups.text.gather(1, parent[:, :, None].expand(-1, -1, self.longest))
        position = groups.length[:, None, None].expand(-1, beams, 1)
        groups.text.scatter_(2, position, token[:, :, None])
        groups.length = length
        if beams > 1 and alive > 1:
            target_rows = first + torch.arange(count * beams, device=rows.device)
            source = first + (torch.arange(count, device=rows.device)[:, None] * beams + parent).flatten()
            needs_copy = source != target_rows
            rows.copy(source[needs_copy], target_rows[needs_copy])

    def _keep_best(self, groups: _Groups, score: Tensor, token: Tensor, parent: Tensor, scored_length: Tensor) -> None:
        """Store the best sequence that ends with the next token, if it is better than the earlier ones.

        Args:
            groups: the prompts before the next token; their best sequences are updated in place.
            score: float32 n x k, log-probabilities of the candidates, -inf for those that do not end.
            token, parent: int64 n x k, last token of each candidate and the beam that it continues.
            scored_length: int64 n, divides the log-probabilities.
        """
        best, rank = (score.double() / scored_length[:, None]).max(-1)
        better = (best > groups.best_score).nonzero()[:, 0]
        if len(better):
            rank = rank[better]
            text = groups.text[better, parent[better, rank]]
            position = groups.length[better]
            text.scatter_(1, position[:, None], token[better, rank][:, None])
            groups.best_text[better] = text
            groups.best_score[better] = best[better]
            groups.best_length[better] = position + 1

    def _forbid_pairs(self, groups: _Groups, logits: Tensor, alive: int) -> None:
        """Set the logits of tokens that have followed the last token before to -inf, in place."""
        width = int(groups.length.max())
        text = groups.text[:, :alive, :width].reshape(-1, width)
        length = groups.length.repeat_interleave(alive)[:, None]
        last = text.gather(1, length - 1)
        is_earlier_position = torch.arange(width - 1, device=text.device)[None] < length - 1
        row, position = ((text[:, :-1] == last) & is_earlier_position).nonzero(as_tuple=True)
        logits[row, text[row, position + 1]] = -torch.inf

    def _retire(self, rows: Rows, groups: _Groups, results: list[list[int]], report: Report) -> _Groups | None:
        """Store the results of completed prompts and move the last groups to their places; None if none are left."""
        done = (groups.finished >= self.beams) | (groups.length >= self.longest)
        leaving = done.nonzero()[:, 0].tolist()
        if not leaving:
            return groups
        texts = groups.best_text[done].tolist()
        sizes = (values[done].tolist() for values in (groups.prompt, groups.prompt_length, groups.best_length))
        for prompt, prompt_length, length, text in zip(*sizes, texts, strict=True):
            results[prompt] = text[prompt_length:length]
        report(len(leaving))
        remaining = len(groups) - len(leaving)
        if remaining == 0:
            rows.resize(0)
            return None
        stay = (~done).nonzero()[:, 0]
        order = torch.arange(remaining, device=rows.device)
        holes = done[:remaining].nonzero()[:, 0]
        order[holes] = stay[stay >= remaining]
        beam = torch.arange(self.beams, device=rows.device)
        rows.copy((order[holes][:, None] * self.beams + beam).flatten(), (holes[:, None] * self.beams + beam).flatten())
        rows.resize(remaining * self.beams)
        return groups.pick(order)


def _slots(parent: Tensor) -> Tensor:
    """Return a place for each new beam, so that as many as possible stay in their parent's row and need no copy.

    ``parent``, the beam that each new one continues, and the result, a permutation of 0 … beams-1 for each prompt, are
    int64, prompts x beams.
    """
    beams = parent.shape[1]
    same = parent[:, :, None] == parent[:, None, :]
    earlier = torch.ones(beams, beams, dtype=torch.bool, device=parent.device).tril(-1)
    first = ~(same & earlier).any(-1)
    taken = torch.zeros_like(parent).scatter_(1, parent, 1)
    free = taken.argsort(dim=1, stable=True)
    number = ((~first).cumsum(1) - 1).clamp(min=0)
    return torch.where(first, parent, free.gather(1, number))
