"""Packing: converts a padded batch to a flat list of its real tokens, and back.

All parts of a transformer layer except attention process tokens independently, so they run on the N real tokens of
a batch without padding. Attention needs one row per record; for it the tokens are laid out as B × length, where
``length`` is the number of tokens of the longest record.

The sizes of packed tensors are integers that the caller knows (:class:`Size`). On a GPU, reading them from a tensor
would make the host wait for all work that was sent to the device before.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Size(NamedTuple):
    """Number of packed tokens of a batch, and number of slots that its longest record uses."""

    tokens: int
    longest: int


class Packing:
    """The record, and the position within the record, of each of N packed tokens.

    Attributes:
        rows: N, int64, the record (0 … batch−1) of each token.
        slots: N, int64, its position in the padded row of the record; no two tokens share (row, slot).
        real: N, bool, or None when all are real. A token that is not real attends to others but is never attended to.
        batch: number of records, B.
        length: width of the padded layout, at least 1 so that no kernel gets an empty dimension.
    """

    def __init__(self, rows: Tensor, slots: Tensor, batch: int, length: int, real: Tensor | None = None) -> None:
        self.rows = rows
        self.slots = slots
        self.batch = batch
        self.length = max(length, 1)
        self.real = real

    @classmethod
    def of_lengths(cls, lengths: Tensor, size: Size) -> Packing:
        """Pack the first tokens of each record, as many as ``lengths`` (B, int64) says."""
        batch, device = len(lengths), lengths.device
        rows = torch.repeat_interleave(torch.arange(batch, device=device), lengths, output_size=size.tokens)
        starts = lengths.cumsum(0) - lengths
        slots = torch.arange(size.tokens, device=device) - starts[rows]
        return cls(rows, slots, batch, size.longest)

    @classmethod
    def of_mask(cls, present: Tensor, size: Size, real: Tensor | None = None) -> Packing:
        """Pack the tokens for which ``present`` is True; their slots are the columns.

        Args:
            present: B×S, bool, tokens to keep.
            size: number of True entries; ``longest`` is the last column that is used, plus 1.
            real: B×S, bool, tokens that may be attended to; None means all.
        """
        # A stable sort instead of nonzero(), whose result has a size that the host would wait for.
        flat = (~present).flatten().to(torch.uint8).argsort(stable=True)[: size.tokens]
        width = max(present.size(1), 1)
        rows, slots = flat // width, flat % width
        return cls(rows, slots, present.size(0), size.longest, None if real is None else real.flatten()[flat])

    @classmethod
    def of_rows(cls, rows: Tensor, batch: int, longest: int, real: Tensor | None = None) -> Packing:
        """Pack tokens given only the record of each (``rows``: N, int64); slots follow the given order without gaps.

        ``longest`` is the number of tokens of the longest record.
        """
        by_row, order = rows.sort(stable=True)
        starts = torch.searchsorted(by_row, torch.arange(batch, device=rows.device))
        slots = torch.empty_like(rows)
        slots[order] = torch.arange(rows.numel(), device=rows.device) - starts[by_row]
        return cls(rows, slots, batch, longest, real)

    def __len__(self) -> int:
        return self.rows.numel()

    def take(self, padded: Tensor) -> Tensor:
        """Return the N packed tokens (N×d) of ``padded`` (B×S×d).

        Raises:
            ValueError: S is smaller than the number of slots in use.
        """
        if len(self) and padded.size(1) < self.length:
            raise ValueError(f"{self.length} slots are in use, but the padded tensor has {padded.size(1)}")
        index = self.rows * padded.size(1) + self.slots
        return padded.flatten(0, 1).index_select(0, index)

    def pad(self, flat: Tensor, length: int | None = None) -> Tensor:
        """Return the packed tokens ``flat`` (N×d) as B×length×d with zero padding; the inverse of :meth:`take`."""
        length = self.length if length is None else length
        empty = flat.new_zeros(self.batch * length, flat.size(1))
        return empty.index_copy(0, self.rows * length + self.slots, flat).unflatten(0, (self.batch, length))

    def mask(self, length: int | None = None) -> Tensor:
        """Return a mask (B×length, bool) that is True at real tokens."""
        length = self.length if length is None else length
        mask = torch.zeros(self.batch * length, dtype=torch.bool, device=self.rows.device)
        mask[self.rows * length + self.slots] = True if self.real is None else self.real
        return mask.unflatten(0, (self.batch, length))
