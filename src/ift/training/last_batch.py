"""The last batch of an epoch, when its rows do not fill every process: no row is counted twice and none is dropped.

accelerate evens the batches by giving out rows from the start of the epoch again, so 11 rows on two processes with
batches of 4 would train five of them twice. Here the places are filled with rows that train nothing instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import DataLoader, Dataset, Sampler

from ift.step.rows import IGNORED


class RowsAndFillers(Dataset[dict[str, Any]]):
    """Rows, and behind the last of them any number of fillers: copies of rows with every label -100.

    Its length is the number of rows, which is what transformers and accelerate count by.
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
    """The indices of a sampler, and then those of fillers, until their number is a multiple of the global batch."""

    def __init__(self, sampler: Sampler[int], rows: int, multiple: int) -> None:
        self.sampler, self.rows, self.multiple = sampler, rows, multiple

    def __len__(self) -> int:
        """Number of indices, fillers included."""
        return -(-len(self.sampler) // self.multiple) * self.multiple  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        """One epoch."""
        yield from self.sampler
        for filler in range(len(self) - len(self.sampler)):  # type: ignore[arg-type]
            yield self.rows + filler

    def set_epoch(self, epoch: int) -> None:
        """Another order for another epoch, as the sampler itself has it."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


class CountsRowsOnce:
    """Mixin before a `transformers.Trainer` whose loss counts labels: the last batch of several processes is exact.

    In training and evaluation, on data sets with a length and labels. `dataloader_drop_last`, data that is streamed and
    `dispatch_batches` keep accelerate's ways.
    """

    def _get_dataloader(
        self, dataset: Any, description: str, batch_size: int, sampler_fn: Any = None, **kwargs: Any
    ) -> DataLoader[Any]:
        """As transformers', with fillers where accelerate would repeat rows."""
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
