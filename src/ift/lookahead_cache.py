"""Greedy look-aheads kept from a row's earlier visits, so that later epochs need not look ahead again.

An approximation: the model has learned since the guess was made. `LookAheadCache` holds the guesses, known by the hash
of their row whatever batch, padding or packing it comes in; `KeepsLookAheads` is what the trainer does with them.

Shape legend: B rows, T positions, N trained positions, D documents with a trained position.
"""

from __future__ import annotations

import json
import logging
import os
import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from ift.functional import RowLayout, row_layout
from ift.lookahead import row_hashes
from ift.loss import IFTLoss

logger = logging.getLogger(__name__)

FILE = "lookahead_cache.safetensors"
FORMAT = "1"
FIRST_TOKENS = 1 << 16


@dataclass(frozen=True)
class Guesses:
    """Guesses of the documents of a batch, in its order; documents without a trained position are left out.

    Attributes:
        keys: (D,) int64, a hash of each document's tokens and of which of them are trained.
        counts: (D,) int64, trained positions of each.
        tokens: (N,) int64, a guess for each trained position; None where they are still to be found.
    """

    keys: Tensor
    counts: Tensor
    tokens: Tensor | None = None


def documents_of(input_ids: Tensor, layout: RowLayout, tokens: Tensor | None = None) -> Guesses:
    """The documents of a batch, with the entries of `tokens` (B, T) at their trained positions where it is given."""
    hashes = row_hashes(input_ids + (layout.trained.long() << 32), layout)[layout.trained]
    _, counts = layout.documents[layout.trained].unique_consecutive(return_counts=True)
    return Guesses(
        hashes[counts.cumsum(0) - counts], counts, None if tokens is None else tokens[layout.trained]
    )


class LookAheadCache:
    """Guesses by row: 2 bytes each where the vocabulary allows it, else 4, in a memory-mapped file without a name.

    Args:
        vocabulary: of the model; a guess is below it.
        folder: where the file lies, of which nothing is left when the process ends.
    """

    def __init__(self, vocabulary: int, folder: Path) -> None:
        self.vocabulary = vocabulary
        self._dtype = np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.int32)
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 # open as long as the cache
        self._places: dict[int, tuple[int, int]] = {}  # key -> where its guesses begin, how many they are
        self._used = 0
        self._tokens = self._mapped(FIRST_TOKENS)

    def __len__(self) -> int:
        """Number of documents known."""
        return len(self._places)

    @property
    def tokens(self) -> int:
        """Number of guesses kept."""
        return self._used

    def find(self, documents: Guesses) -> Tensor | None:
        """(N,) int64, the guesses of all these documents; None unless every one of them is known."""
        wanted = zip(documents.keys.tolist(), documents.counts.tolist(), strict=True)
        places = [(*self._places.get(key, (0, -1)), count) for key, count in wanted]
        if not places or any(known != count for _, known, count in places):
            return None
        found = np.concatenate([self._tokens[start : start + count] for start, _, count in places])
        return torch.from_numpy(found.astype(np.int64)).to(documents.keys.device)

    def put(self, documents: Guesses) -> None:
        """Keep these guesses, instead of those that were kept for the same documents."""
        if documents.tokens is None or not len(documents.keys):
            return
        pieces = np.split(
            documents.tokens.cpu().numpy().astype(self._dtype), documents.counts.cumsum(0)[:-1].cpu().numpy()
        )
        for key, piece in zip(documents.keys.tolist(), pieces, strict=True):
            start, known = self._places.get(key, (0, -1))
            if known != len(piece):
                start = self._used
                self._reserve(len(piece))
                self._places[key] = (start, len(piece))
            self._tokens[start : start + len(piece)] = piece

    def save(self, file: Path, about: Mapping[str, str]) -> None:
        """Write everything to a safetensors file, in one move; `about` goes into its metadata."""
        places = np.array([*self._places.values()], dtype=np.int64).reshape(-1, 2)
        content = {
            "keys": np.array([*self._places], dtype=np.int64),
            "starts": places[:, 0].copy(),
            "counts": places[:, 1].copy(),
            "guesses": np.array(self._tokens[: self._used]),
        }
        facts = {"format": FORMAT, "vocabulary": str(self.vocabulary), **about}
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.part")
        save_file(content, aside, metadata={"ift": json.dumps(facts)})
        aside.replace(file)

    def load(self, file: Path) -> dict[str, str]:
        """Take in what `save` wrote; returns what it was told about it.

        Raises:
            ValueError: there is no such file, it is none of ours, or of a model with another vocabulary.
            OSError: it cannot be read.
        """
        if not file.is_file():
            raise ValueError(f"{file}: there is no such file. Fix: make it with ift precompute-lookahead")
        try:
            with safe_open(file, framework="np") as opened:
                about = json.loads((opened.metadata() or {}).get("ift", "{}"))
                if about.get("format") != FORMAT:
                    raise ValueError(
                        f"{file}: holds no look-aheads. Fix: name a file that ift precompute-lookahead or a checkpoint "
                        "of --lookahead_cache wrote"
                    )
                if about["vocabulary"] != str(self.vocabulary):
                    raise ValueError(
                        f"{file}: look-aheads over {about['vocabulary']} tokens, the model has {self.vocabulary}. "
                        "Fix: make them with this model"
                    )
                keys, starts, counts, guesses = (
                    opened.get_tensor(name) for name in ("keys", "starts", "counts", "guesses")
                )
        except SafetensorError as error:
            raise ValueError(
                f"{file}: cannot be read ({error}). Fix: make it again with ift precompute-lookahead"
            ) from error
        begin = self._used
        self._reserve(len(guesses))
        self._tokens[begin : begin + len(guesses)] = guesses
        places = zip((starts + begin).tolist(), counts.tolist(), strict=True)
        self._places.update(zip(keys.tolist(), places, strict=True))
        return dict(about)

    def _reserve(self, tokens: int) -> None:
        self._used += tokens
        if self._used > len(self._tokens):
            self._tokens = self._mapped(2 * self._used)

    def _mapped(self, tokens: int) -> np.memmap[Any, Any]:
        """The file, grown to so many tokens: written, so that a full disk is an OSError here and no crash later."""
        held = self._file.seek(0, os.SEEK_END)
        self._file.write(bytes(tokens * self._dtype.itemsize - held))
        self._file.flush()
        return np.memmap(self._file, self._dtype, "r+", shape=(tokens,))


class KeepsLookAheads:
    """Mixin before a `transformers.Trainer` whose `compute_loss` asks it for guesses and tells it those that were made.

    Every process knows the guesses of all of them, since rows change places between epochs. They are part of each
    checkpoint, so that a run that goes on is the run that was not stopped.
    """

    _cache: LookAheadCache | None = None
    _expected = False  # whether the first batch should be known already

    def _prepare_for_training(
        self: Any, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> Any:
        """As transformers', once the guesses that the run begins with are read."""
        args = self.args
        if args.lookahead_cache != "off":
            vocabulary = self.model.config.get_text_config().vocab_size
            self._cache = LookAheadCache(vocabulary, Path(args.output_dir))
            kept = None if resume_from_checkpoint is None else Path(resume_from_checkpoint) / FILE
            if kept is not None and kept.exists():
                self._cache.load(kept)
            elif args.lookahead_cache_path is not None:
                about = self._cache.load(Path(args.lookahead_cache_path))
                self._expected = self.state.global_step == 0
                if about.get("model") != str(self.model.config.name_or_path):
                    logger.warning(
                        "%s holds look-aheads of %s; the model that trains is %s.",
                        args.lookahead_cache_path,
                        about.get("model"),
                        self.model.config.name_or_path,
                    )
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)  # type: ignore[misc]

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        """As transformers', with the guesses."""
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        if self._cache is not None and self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            self._cache.save(folder / FILE, {"model": str(self.model.config.name_or_path)})

    def _kept_guesses(self: Any, inputs: Mapping[str, Any]) -> Tensor | None:
        """(B, T) int64, the guesses kept for a batch; None where some process does not know all of its own."""
        if self._cache is None or not self.model.training:
            return None
        layout = row_layout(inputs["labels"], inputs.get("attention_mask"), inputs.get("position_ids"))
        found = self._cache.find(documents_of(inputs["input_ids"], layout))
        known = found is not None or not bool(layout.trained.any())
        if self._expected and not known:
            logger.warning(
                "%s does not know the rows of the first batch: other rows, another template or max_length.",
                self.args.lookahead_cache_path,
            )
        self._expected = False
        if self.accelerator.num_processes > 1:  # with sharded weights every pass is a gathering in step
            vote = torch.tensor([known], device=layout.trained.device)
            known = bool(self.accelerator.gather(vote).all())
        if not known:
            return None
        ids: Tensor = inputs["input_ids"]
        return ids if found is None else ids.masked_scatter(layout.trained, found)

    def _refreshes(self: Any) -> bool:
        """Whether this optimiser step looks ahead although guesses are kept; the same in all processes."""
        share, step = self.args.lookahead_refresh, self.state.global_step
        return share > 0 and random.Random(f"{self.args.seed} {step}").random() < share  # nosec B311 # no secret

    def _keep(self: Any, inputs: Mapping[str, Any], result: IFTLoss, kept: Tensor | None) -> dict[str, float]:
        """Keep the guesses that a batch's rows are to have at their next visit, of all processes; returns metrics.

        Args:
            inputs: the batch.
            result: of its step.
            kept: what `_kept_guesses` gave for it.
        """
        scores = result.scores
        if self._cache is None or not self.model.training or scores.lookahead_ids is None:
            return {}
        fresh = scores.nll is not None
        mixed = self.args.lookahead_cache == "mixed"
        if mixed or fresh:
            guesses = scores.predicted_ids if mixed else scores.lookahead_ids
            self._cache.put(
                everyones(self.accelerator, documents_of(inputs["input_ids"], result.layout, guesses))
            )
        told = {"lookahead_cached": float(not fresh)}
        if fresh and kept is not None and bool(result.layout.trained.any()):
            same = (kept == scores.lookahead_ids)[result.layout.trained]
            told["lookahead_agreement"] = same.double().mean().item()
        return told


def everyones(accelerator: Any, documents: Guesses) -> Guesses:
    """The guesses of all processes, in all of them."""
    if accelerator.num_processes == 1 or documents.tokens is None:
        return documents
    device, widest = documents.keys.device, int(documents.counts.max()) if len(documents.counts) else 0
    table = torch.zeros(len(documents.keys), 2 + widest, dtype=torch.int64, device=device)
    table[:, 0], table[:, 1] = documents.keys, documents.counts
    table[:, 2:].masked_scatter_(_filled(documents.counts, widest), documents.tokens)
    for dim in (1, 0):
        table = accelerator.pad_across_processes(table, dim=dim)
    table = accelerator.gather(table)
    table = table[table[:, 1] > 0]
    keys, counts, guesses = table[:, 0], table[:, 1], table[:, 2:]
    return Guesses(keys, counts, guesses[_filled(counts, guesses.shape[1])])


def _filled(counts: Tensor, width: int) -> Tensor:
    """(D, width) bool, the first `counts` of each row."""
    return torch.arange(width, device=counts.device) < counts[:, None]
