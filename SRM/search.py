"""Beam search and greedy search over the rows of :mod:`SRM.rows`; finished prompts make room for waiting ones.

Beam search is that of transformers' generate() with ``early_stopping=True`` and length penalty 1: of the 2 x beams
best continuations of a prompt those that end and are among the first ``beams`` are kept as finished, the best
``beams`` of the others go on, and the prompt is done when ``beams`` have finished. The result is the finished
sequence with the best score, which is its log-probability divided by a length:

``published``
    The rule of transformers 3.4 to 4.10, which the published code runs with. The length is that of the whole
    sequence, prompt included and eos not. At the longest length, a prompt that is not done adds its ``beams`` open
    sequences to the finished ones.
``generated``
    The rule of today's transformers. The length is that of the generated tokens, eos included. At the longest
    length, open sequences count as finished if they are among the first ``beams`` continuations.

Greedy search is the same with one beam, for which both rules agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from SRM.batches import padded
from SRM.rows import GrowingRows

ROOM = 8
"""New prompts are taken in when a share of 1 / ROOM of the rows is free: each intake is a pass of its own."""


@dataclass
class _Groups:
    """The prompts in work, n of them, each with its beams; row ``i * beams + j`` holds beam j of prompt i.

    Attributes:
        owner: int64 n, which prompt.
        begun: int64 n, tokens of the prompt; of an encoder-decoder model, the decoder's first token.
        length: int64 n, tokens so far, the prompt's included.
        text: int64 n x beams x longest.
        score: float32 n x beams, sum of log-probabilities.
        best_score, best_length, best_text: of the best finished sequence (float64 n, n, n x longest).
        finished: int64 n, how many have finished.
    """

    owner: Tensor
    begun: Tensor
    length: Tensor
    text: Tensor
    score: Tensor
    best_score: Tensor
    best_length: Tensor
    best_text: Tensor
    finished: Tensor

    def __len__(self) -> int:
        return len(self.owner)

    def pick(self, index: Tensor) -> _Groups:
        """Some of them, in the order of ``index``."""
        return _Groups(*(getattr(self, field.name)[index] for field in fields(self)))

    def joined(self, other: _Groups) -> _Groups:
        """These, then the others."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return _Groups(*(torch.cat(pair) for pair in pairs))


@dataclass(frozen=True)
class Search:
    """How sequences are searched for.

    Attributes:
        eos, pad: token ids.
        longest: tokens of a sequence with its prompt, at most.
        beams: sequences that are followed up for one prompt; 1 is greedy search.
        unique_pairs: no two tokens follow each other twice in one sequence, its prompt included
            (``no_repeat_ngram_size=2``).
        length_rule: one of :data:`SRM.settings.LENGTH_RULES`.
    """

    eos: int
    pad: int
    longest: int
    beams: int = 1
    unique_pairs: bool = False
    length_rule: str = "published"

    @torch.inference_mode()
    def run(
        self,
        rows: GrowingRows,
        prompts: Sequence[Sequence[int]],
        report: Callable[[int], object] = lambda count: None,
    ) -> list[list[int]]:
        """Continue every prompt.

        Args:
            rows: whatever they hold is forgotten; at least ``beams`` of them.
            prompts: ids, for a decoder each shorter than ``longest``; best sorted by length, since they are taken in
                in turn.
            report: told how many prompts have finished since the last call.

        Returns:
            What follows each prompt, ``eos`` included where it was reached.
        """
        rows.resize(0)
        results: list[list[int]] = [[] for _ in prompts]
        most = rows.capacity // self.beams
        waiting = 0
        groups: _Groups | None = None
        while waiting < len(prompts) or groups is not None:
            at_work = len(groups) if groups else 0
            room = rows.joins and most - at_work >= max(1, most // ROOM)
            if waiting < len(prompts) and (room or not at_work):
                upto = min(len(prompts), waiting + most - at_work)
                new = self._begin(rows, prompts, range(waiting, upto))
                groups = groups.joined(new) if groups else new
                waiting = upto
            else:
                self._advance(rows, groups, rows.step(_last_token(groups)), 0, self.beams)
            groups = self._retire(rows, groups, results, report)
        return results

    def _begin(self, rows: GrowingRows, prompts: Sequence[Sequence[int]], chosen: range) -> _Groups:
        """Take in prompts: one row each, then as many as beams."""
        texts = [prompts[i] for i in chosen]
        device, first, count = rows.device, rows.used, len(texts)
        scores = rows.append(texts, self.pad)
        length = rows.lengths[first : rows.used].clone()
        text = padded(rows.sequences(texts), self.pad, self.longest).to(device)
        groups = _Groups(
            owner=torch.tensor(list(chosen), device=device),
            begun=length,
            length=length.clone(),
            text=text[:, None].repeat(1, self.beams, 1),
            score=torch.zeros(count, self.beams, device=device),
            best_score=torch.full((count,), -torch.inf, dtype=torch.float64, device=device),
            best_length=length.clone(),
            best_text=text,
            finished=torch.zeros(count, dtype=torch.long, device=device),
        )
        rows.resize(first + count * self.beams)
        every = torch.arange(count * self.beams, device=device)
        rows.copy(first + every // self.beams, first + every)
        self._advance(rows, groups, scores, first, 1)
        return groups

    def _advance(self, rows: GrowingRows, groups: _Groups, scores: Tensor, first: int, alive: int) -> None:
        """Choose the next token of every beam.

        Args:
            scores: float32, (prompts x alive) x vocabulary.
            first: the row in which the groups begin.
            alive: beams that differ so far: 1 right after the prompt.
        """
        count, beams = len(groups), self.beams
        total = torch.logsumexp(scores, -1)
        if self.unique_pairs:
            self._forbid_pairs(groups, scores, alive)
        best, token = scores.topk(2 * beams, -1)
        reached = (best - total[:, None]).view(count, alive, -1) + groups.score[:, :alive, None]
        reached, choice = reached.flatten(1).topk(2 * beams, -1)
        token = token.view(count, -1).gather(1, choice)
        parent = choice // (2 * beams)

        length = groups.length + 1
        full = length == self.longest
        ends = token == self.eos
        if self.length_rule == "generated":
            ends = ends | full[:, None]
        over = ends.clone()
        over[:, beams:] = False
        self._keep_best(groups, reached.masked_fill(~over, -torch.inf), token, parent, self._scored_length(groups))
        groups.finished = groups.finished + over.sum(-1)

        going, order = reached.masked_fill(ends, -torch.inf).topk(beams, -1)
        token, parent = token.gather(1, order), parent.gather(1, order)
        if self.length_rule == "published" and bool(full.any()):
            still_open = full & (groups.finished < beams)
            self._keep_best(groups, going.masked_fill(~still_open[:, None], -torch.inf), token, parent, length)
        slot = _slots(parent)
        groups.score = torch.empty_like(going).scatter_(1, slot, going)
        token = torch.empty_like(token).scatter_(1, slot, token)
        parent = torch.empty_like(parent).scatter_(1, slot, parent)
        groups.text = groups.text.gather(1, parent[:, :, None].expand(-1, -1, self.longest))
        at = groups.length[:, None, None].expand(-1, beams, 1)
        groups.text.scatter_(2, at, token[:, :, None])
        groups.length = length
        if beams > 1 and alive > 1:
            own = first + torch.arange(count * beams, device=rows.device)
            source = first + (torch.arange(count, device=rows.device)[:, None] * beams + parent).flatten()
            moved = source != own
            rows.copy(source[moved], own[moved])

    def _scored_length(self, groups: _Groups) -> Tensor:
        """By what the log-probabilities of sequences that end with the next token are divided (int64 n)."""
        return groups.length if self.length_rule == "published" else groups.length + 1 - groups.begun

    def _keep_best(
        self, groups: _Groups, reached: Tensor, token: Tensor, parent: Tensor, scored_length: Tensor
    ) -> None:
        """Remember the best of the sequences that end now, where it is better than those that ended before.

        Args:
            groups: before the next token.
            reached: float32 n x k, log-probabilities of the candidates, -inf for those that do not end.
            token, parent: int64 n x k, their last token and the beam that it continues.
            scored_length: int64 n, divides the log-probabilities.
        """
        score, rank = (reached.double() / scored_length[:, None]).max(-1)
        better = (score > groups.best_score).nonzero()[:, 0]
        if len(better):
            rank = rank[better]
            text = groups.text[better, parent[better, rank]]
            at = groups.length[better]
            text.scatter_(1, at[:, None], token[better, rank][:, None])
            groups.best_text[better] = text
            groups.best_score[better] = score[better]
            groups.best_length[better] = at + 1

    def _forbid_pairs(self, groups: _Groups, scores: Tensor, alive: int) -> None:
        """Make every token impossible that followed the last token before."""
        width = int(groups.length.max())
        text = groups.text[:, :alive, :width].reshape(-1, width)
        length = groups.length.repeat_interleave(alive)[:, None]
        last = text.gather(1, length - 1)
        before = torch.arange(width - 1, device=text.device)[None] < length - 1
        row, at = ((text[:, :-1] == last) & before).nonzero(as_tuple=True)
        scores[row, text[row, at + 1]] = -torch.inf

    def _retire(
        self, rows: GrowingRows, groups: _Groups, results: list[list[int]], report: Callable[[int], object]
    ) -> _Groups | None:
        """Hand over the results of prompts that are done; the last groups move to their places."""
        done = (groups.finished >= self.beams) | (groups.length >= self.longest)
        leaving = done.nonzero()[:, 0].tolist()
        if not leaving:
            return groups
        texts = groups.best_text[done].tolist()
        sizes = (values[done].tolist() for values in (groups.owner, groups.begun, groups.best_length))
        for owner, begun, length, text in zip(*sizes, texts, strict=True):
            results[owner] = text[begun:length]
        report(len(leaving))
        left = len(groups) - len(leaving)
        if left == 0:
            rows.resize(0)
            return None
        stay = (~done).nonzero()[:, 0]
        order = torch.arange(left, device=rows.device)
        holes = done[:left].nonzero()[:, 0]
        order[holes] = stay[stay >= left]
        beam = torch.arange(self.beams, device=rows.device)
        rows.copy(
            (order[holes][:, None] * self.beams + beam).flatten(),
            (holes[:, None] * self.beams + beam).flatten(),
        )
        rows.resize(left * self.beams)
        return groups.pick(order)


def _last_token(groups: _Groups) -> Tensor:
    """The last token of every beam, flat."""
    at = (groups.length - 1)[:, None, None].expand(-1, groups.text.shape[1], 1)
    return groups.text.gather(2, at).flatten()


def _slots(parent: Tensor) -> Tensor:
    """Places for the children so that as many as can stand where their parent stood and need no copy.

    Args:
        parent: int64, prompts x beams, each in 0 … beams-1.
    """
    beams = parent.shape[1]
    same = parent[:, :, None] == parent[:, None, :]
    earlier = torch.ones(beams, beams, dtype=torch.bool, device=parent.device).tril(-1)
    first = ~(same & earlier).any(-1)
    taken = torch.zeros_like(parent).scatter_(1, parent, 1)
    free = taken.argsort(dim=1, stable=True)
    number = ((~first).cumsum(1) - 1).clamp(min=0)
    return torch.where(first, parent, free.gather(1, number))
