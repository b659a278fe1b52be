"""Packing: the real tokens of a padded batch as one flat list, and the way back.

Everything in a transformer layer but attention treats tokens one by one, so it runs on the N real tokens of a
batch and never on padding. Attention needs records side by side; there the tokens are laid out as B × length,
where ``length`` is the longest record's count of tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Packing:
    """Which record, and which place in it, each of N flat tokens has.

    Attributes:
        rows: N, int64, the record (0 … batch−1) of each token.
        slots: N, int64, its place in the record's padded row; no two tokens share (row, slot).
        real: N, bool, or None where all are real. A token that is not real asks but is never attended to.
        batch: records in the batch, B.
        length: width of the padded layout, at least 1 so that no kernel meets an empty axis.
    """

    def __init__(self, rows: Tensor, slots: Tensor, batch: int, length: int, real: Tensor | None = None) -> None:
        self.rows = rows
        self.slots = slots
        self.batch = batch
        self.length = max(length, 1)
        self.real = real

    @classmethod
    def of_mask(cls, present: Tensor, real: Tensor | None = None) -> Packing:
        """The tokens where ``present`` (B×S, bool) holds; slots are their columns, the layout is cut to the last.

        Args:
            present: B×S, bool, tokens to keep.
            real: B×S, bool, those among them that may be attended to; None means all.
        """
        flat = present.flatten().nonzero().squeeze(1)
        width = present.size(1)
        rows, slots = flat // max(width, 1), flat % max(width, 1)
        length = int(slots.max()) + 1 if flat.numel() else 0
        return cls(rows, slots, present.size(0), length, None if real is None else real.flatten()[flat])

    @classmethod
    def of_rows(cls, rows: Tensor, batch: int, real: Tensor | None = None) -> Packing:
        """Tokens of which only the record is known: each record's tokens stand without gaps, in the given order."""
        by_row, order = rows.sort(stable=True)
        starts = torch.searchsorted(by_row, torch.arange(batch, device=rows.device))
        slots = torch.empty_like(rows)
        slots[order] = torch.arange(rows.numel(), device=rows.device) - starts[by_row]
        length = int(slots.max()) + 1 if rows.numel() else 0
        return cls(rows, slots, batch, length, real)

    def __len__(self) -> int:
        return self.rows.numel()

    def take(self, padded: Tensor) -> Tensor:
        """The N tokens out of ``padded`` (B×S×d): N×d.

        Raises:
            ValueError: S is too narrow for the slots.
        """
        if len(self) and padded.size(1) < self.length:
            raise ValueError(f"{self.length} slots are in use, but the padded tensor has {padded.size(1)}")
        index = self.rows * padded.size(1) + self.slots
        return padded.flatten(0, 1).index_select(0, index)

    def pad(self, flat: Tensor, length: int | None = None) -> Tensor:
        """``flat`` (N×d) as B×length×d with zeros where there is no token; inverse of :meth:`take`."""
        length = self.length if length is None else length
        empty = flat.new_zeros(self.batch * length, flat.size(1))
        return empty.index_copy(0, self.rows * length + self.slots, flat).unflatten(0, (self.batch, length))

    def mask(self, length: int | None = None) -> Tensor:
        """B×length, bool: True where a real token stands."""
        length = self.length if length is None else length
        mask = torch.zeros(self.batch * length, dtype=torch.bool, device=self.rows.device)
        mask[self.rows * length + self.slots] = True if self.real is None else self.real
        return mask.unflatten(0, (self.batch, length))
