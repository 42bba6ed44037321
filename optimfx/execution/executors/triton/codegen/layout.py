"""The rows of a kernel's table of addresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from optimfx.execution.executors.triton.codegen.recording import Recording


class Layout(NamedTuple):
    """The rows of a kernel's table: columns that it reads, then those that it writes, if they are others."""

    dtypes: Sequence[Any]  # dtypes of param, grad, slots; None for what is not kept
    compute: torch.dtype
    stepping: bool
    inplace: bool

    @property
    def written(self) -> list[int]:
        """For each result, the column that it takes after."""
        return [0 if self.stepping else 1, *range(2, len(self.dtypes))]

    @property
    def rows(self) -> dict[int, int]:
        """The row of the table for each column."""
        there = [column for column, dtype in enumerate(self.dtypes) if dtype is not None]
        return {column: row for row, column in enumerate(there)}

    @property
    def bytes_read(self) -> int:
        """The bytes of an element of all columns that are kept."""
        return sum(dtype.itemsize for dtype in self.dtypes if dtype is not None)

    @property
    def out_rows(self) -> dict[int, int]:
        """The row of the table to which each column's new value goes."""
        rows = self.rows
        if self.inplace:
            return rows
        there = [column for column in self.written if column in rows]
        return {column: len(rows) + row for row, column in enumerate(there)}

    def keeps(self, column: int, result: Any, recording: Recording) -> bool:
        """Whether a column already holds what is to be stored there."""
        return self.inplace and result is recording.columns[column]
