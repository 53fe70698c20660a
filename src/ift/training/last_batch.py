"""Fills the last batch of an epoch on several processes, so that no row is counted twice and none is dropped.

accelerate fills it with rows from the start of the epoch: with 11 rows, two processes and batches of 4, five rows are
trained twice. Here it is filled with rows that have no trained token.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import DataLoader, Dataset, Sampler

from ift.step.rows import IGNORED


class RowsAndFillers(Dataset[dict[str, Any]]):
    """Rows, followed by any number of fillers: copies of rows with all labels -100.

    Its length, which transformers and accelerate use, is the number of rows.
    """

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        """Number of rows, without fillers."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row at `index`, or a filler if `index` is not below the length."""
        row: dict[str, Any] = self.rows[index % len(self)]
        return row if index < len(self) else {**row, "labels": [IGNORED] * len(row["labels"])}


class FilledSampler(Sampler[int]):
    """The indices of a sampler, followed by those of fillers up to a multiple of the global batch."""

    def __init__(self, sampler: Sampler[int], rows: int, multiple: int) -> None:
        self.sampler, self.rows, self.multiple = sampler, rows, multiple

    def __len__(self) -> int:
        """Number of indices, including fillers."""
        return -(-len(self.sampler) // self.multiple) * self.multiple  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        """Yields one epoch."""
        yield from self.sampler
        for filler in range(len(self) - len(self.sampler)):  # type: ignore[arg-type]
            yield self.rows + filler

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the sampler, if it has epochs."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


class CountsRowsOnce:
    """Mixin before a `transformers.Trainer` whose loss counts labels: the last batch of several processes is exact.

    It applies to training and evaluation on data sets with a length and labels, not with `dataloader_drop_last`,
    streaming or `dispatch_batches`.
    """

    def _get_dataloader(
        self, dataset: Any, description: str, batch_size: int, sampler_fn: Any = None, **kwargs: Any
    ) -> DataLoader[Any]:
        """Transformers' data loader, with fillers where accelerate would repeat rows."""
        countable = isinstance(dataset, datasets.Dataset) and "labels" in dataset.column_names
        if self.accelerator.num_processes == 1 or not countable:  # type: ignore[attr-defined]
            return super()._get_dataloader(dataset, description, batch_size, sampler_fn, **kwargs)  # type: ignore[misc]
        rows = RowsAndFillers(self._remove_unused_columns(dataset, description=description))  # type: ignore[attr-defined]

        def order(same: RowsAndFillers) -> Any:
            return None if sampler_fn is None else sampler_fn(same.rows)

        loader: DataLoader[Any] = super()._get_dataloader(rows, description, batch_size, order, **kwargs)  # type: ignore[misc]
        shard = loader.batch_sampler
        if isinstance(shard, BatchSamplerShard) and shard.batch_size and not shard.drop_last:
            multiple = shard.batch_size * (1 if shard.split_batches else shard.num_processes)
            batches = shard.batch_sampler
            batches.sampler = FilledSampler(batches.sampler, len(rows), multiple)
        return loader
