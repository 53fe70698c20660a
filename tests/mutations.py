"""Plants faults in a copy of the package, one at a time, and sees that the tests named for each turn red.

Run it from anywhere: `python tests/mutations.py [words of a fault's name]`. It prints a table and exits with 1 if a
fault lives, or is stale: its old text must occur exactly once, and its tests must be green without it.

Each run is a fork of one process that has the heavy libraries loaded but not `ift`, whose copy comes first in the path.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Fault:
    """A fault: in `file` (below src/ift), `old` becomes `new`, and one of `tests` (below tests) must turn red."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


FUNCTIONAL = ("step/test_equations.py",)
OPTIONS = ("step/test_algorithm.py::test_every_option_is_the_references",)
PACKED = ("step/test_architectures.py::test_packed_documents_are_the_rows",)
SHARED = (
    "step/shared_prefix/test_prefix.py::test_every_family_of_the_table_shares_and_its_step_is_the_plain_one",
)
FAMILIES = ("step/test_architectures.py::test_the_step_of_every_family_is_the_references",)
ACCUMULATION = ("training/test_trainer.py::test_gradient_accumulation_is_exact",)
RANKS = ("training/test_distributed.py",)
EMBEDDED = ("step/test_mixed_input.py",)
LOSSES = ("methods/test_losses.py",)
PAIRS = ("data/test_pairs.py",)
CONTROLS = ("methods/test_controls.py",)
SCORER = ("step/test_scored_log_probs.py",)
METHODS = ("cli/test_train_methods.py",)
TDPO_RANKS = ("training/test_distributed.py::test_pairs_are_one_process",)

COMPILED = ("training/test_compile.py",)

FAULTS = [
    Fault(
        "compile: the step is traced",
        "step/algorithm.py",
        "@torch.compiler.disable",
        "",
        COMPILED,
    ),
    Fault(
        "compile: another graph for every shape",
        "training/trainer.py",
        '**{"dynamic": True, **compiler.to_kwargs()}',
        "**compiler.to_kwargs()",
        COMPILED,
    ),
    Fault(
        "compile: layers are handed keys and values all the same",
        "step/shared_prefix/prefix.py",
        'getattr(module, "_compiled_call_impl", None) is not None',
        "False",
        COMPILED,
    ),
    Fault(
        "compile: decoding compiles every layer",
        "generation/decoding.py",
        ', torch.compiler.set_stance("force_eager")',
        "",
        COMPILED,
    ),
    Fault(
        "packed: borders keep a batch from sharing",
        "step/shared_prefix/prefix.py",
        '"position_ids"} - BORDERS',
        '"position_ids"}',
        ("training/test_trainer.py::test_packed_rows_of_like_length_share_their_prefix",),
    ),
    Fault(
        "embedded rows: the guesses' gradient goes to the placeholder",
        "step/mixed_input.py",
        "self.guess_ids.copy_(ids)",
        "self.guess_ids.copy_(ids * 0)",
        EMBEDDED,
    ),
    Fault(
        "embedded rows: frozen or special matrices are gathered, too",
        "step/mixed_input.py",
        "return weight.requires_grad and not isinstance(weight, DTensor) and not special",
        "return True",
        EMBEDDED,
    ),
    Fault(
        "embedded rows: the guesses have a call of their own, with gradient",
        "step/mixed_input.py",
        "embedded_rows = None if embedded is None else embedded.after_prefix",
        "embedded_rows = None",
        EMBEDDED,
    ),
    Fault(
        "scorer: a tile is as large on a CPU as on a GPU",
        "step/scored_log_probs.py",
        'entries = TILE_ENTRIES_GPU if device.type in ("cuda", "xpu") else TILE_ENTRIES',
        "entries = TILE_ENTRIES_GPU",
        SCORER,
    ),
    Fault(
        "scorer: the sums are not scaled to a later tile's maximum",
        "step/scored_log_probs.py",
        "rescale = torch.exp(maximum[rows] - higher)",
        "rescale = torch.ones_like(higher)",
        SCORER,
    ),
    Fault(
        "scorer: the last of equal logits is the most likely token",
        "step/scored_log_probs.py",
        "torch.where(value > maximum[rows], index + start, best[rows])",
        "torch.where(value >= maximum[rows], index + start, best[rows])",
        SCORER,
    ),
    Fault(
        "scorer: the softcap's derivative is left out",
        "step/scored_log_probs.py",
        "to_z.mul_(squashed.square_().neg_().add_(1))",
        "pass",
        SCORER,
    ),
    Fault(
        "scorer: the scale's derivative is left out",
        "step/scored_log_probs.py",
        "tile.copy_(to_z if scale == 1 else to_z.mul_(scale))",
        "tile.copy_(to_z)",
        SCORER,
    ),
    Fault(
        "scorer: the backward pass forgets autocast's dtype",
        "step/scored_log_probs.py",
        "_tiles(hidden, weight, bias, dtype, width, tiles):\n            z, squashed",
        "_tiles(hidden, weight, bias, hidden.dtype, width, tiles):\n            z, squashed",
        SCORER,
    ),
    Fault(
        "scorer: a partitioned head is read outside of its module",
        "step/model.py",
        'hasattr(module.weight, "ds_id")):',
        "False):",
        SCORER,
    ),
    Fault(
        "the weights are detached",
        "step/equations.py",
        'raw = raw.detach() if detach == "weights" else raw',
        "raw = raw.detach()",
        FUNCTIONAL,
    ),
    Fault(
        "the weights' scale is detached",
        "step/equations.py",
        'mean = mean.detach() if detach == "scale" else mean',
        "mean = mean.detach()",
        FUNCTIONAL,
    ),
    Fault(
        "gamma is not squared in the doubling",
        "step/equations.py",
        "2 * reach, discount * discount",
        "2 * reach, discount",
        FUNCTIONAL,
    ),
    Fault(
        "a row of zero losses is scaled",
        "step/equations.py",
        "(mean > torch.finfo(losses.dtype).tiny)",
        "(mean >= 0)",
        FUNCTIONAL,
    ),
    Fault(
        "a document's border is ignored by the weights",
        "step/equations.py",
        "same = documents[:, reach:] == documents[:, :-reach]",
        "same = documents[:, reach:] >= 0",
        PACKED,
    ),
    Fault(
        "a document's border is ignored altogether",
        "step/rows.py",
        "starts = starts | (attended & (position_ids.expand_as(labels) == 0))",
        "pass",
        PACKED,
    ),
    Fault(
        "attention does not hear of documents",
        "step/algorithm.py",
        'inputs["position_ids"] = position_ids',
        "pass",
        PACKED,
    ),
    Fault(
        "the mask is off by one",
        "step/rows.py",
        "trained = (labels != IGNORED) & attended & ~starts",
        "trained = (labels.roll(1, 1) != IGNORED) & attended & ~starts",
        OPTIONS,
    ),
    Fault(
        "a document's first token is trained",
        "step/rows.py",
        "(labels != IGNORED) & attended & ~starts",
        "(labels != IGNORED) & attended & (count > 1)",
        FUNCTIONAL,
    ),
    Fault(
        "padding is trained",
        "step/rows.py",
        "attended = torch.ones_like(labels, dtype=torch.bool) if attention_mask is None else attention_mask.bool()",
        "attended = torch.ones_like(labels, dtype=torch.bool)",
        FUNCTIONAL,
    ),
    Fault(
        "the look-ahead is shifted by one",
        "step/algorithm.py",
        "look_ahead(states, head,",
        "look_ahead(states.roll(1, 0), head,",
        OPTIONS,
    ),
    Fault(
        "a position predicts itself",
        "step/algorithm.py",
        "self.layout.trained_positions.to(hidden.device) - 1",
        "self.layout.trained_positions.to(hidden.device)",
        OPTIONS,
    ),
    Fault(
        "prompt positions are mixed",
        "step/mixed_input.py",
        "return target.index_put((at,)",
        "return (target + residual_lambda * (target.roll(1, 0) - target)).index_put((at,)",
        ("step/test_algorithm.py::test_the_residual_is_mixed_at_trained_positions_only",),
    ),
    Fault(
        "the input is not mixed",
        "step/mixed_input.py",
        "temporal_residual(target.index_select(0, at), guessed, residual_lambda)",
        "temporal_residual(target.index_select(0, at), guessed, 0.0)",
        OPTIONS,
    ),
    Fault(
        "lambda is the target's share",
        "step/equations.py",
        "return (1 - residual_lambda) * target + residual_lambda * guess",
        "return (1 - residual_lambda) * guess + residual_lambda * target",
        OPTIONS,
    ),
    Fault(
        "no gradient reaches the guesses' embeddings",
        "step/mixed_input.py",
        "temporal_residual(target.index_select(0, at), guessed, residual_lambda)",
        "temporal_residual(target.index_select(0, at), guessed.detach(), residual_lambda)",
        OPTIONS,
    ),
    Fault(
        "dropout is on in the look-ahead",
        "step/algorithm.py",
        "with torch.no_grad(), evaluating(passes.model):",
        "with torch.no_grad():",
        ("step/test_algorithm.py::test_dropout_is_off_in_the_look_ahead_and_on_in_the_mixed_pass",),
    ),
    Fault(
        "dropout stays off after the look-ahead",
        "step/model.py",
        "            module.training = True",
        "            module.training = False",
        ("step/test_algorithm.py::test_every_modules_mode_is_as_it_was_even_after_an_error",),
    ),
    Fault(
        "autocast's cache outlives the look-ahead",
        "step/algorithm.py",
        "torch.clear_autocast_cache()  # weights cast under no_grad",
        "pass  # weights cast under no_grad",
        ("step/test_algorithm.py::test_autocasts_cache_is_cleared_between_the_passes",),
    ),
    Fault(
        "learned positions start in the left padding",
        "step/algorithm.py",
        'self.inputs["position_ids"] = layout.positions',
        "pass",
        SHARED,
    ),
    Fault(
        "the prefix carries no gradient",
        "step/shared_prefix/prefix.py",
        "self.prefix = pop_keys_and_values(writer)",
        "self.prefix = [(keys.detach(), values.detach()) for keys, values in pop_keys_and_values(writer)]",
        SHARED,
    ),
    Fault(
        "rows are moved to the left edge",
        "step/shared_prefix/prefix.py",
        "columns = shape[1] - lengths[documents] + layout",
        "columns = layout",
        SHARED,
    ),
    Fault(
        "the first trained token is predicted from the second",
        "step/shared_prefix/prefix.py",
        "self.last_state = output[0][:, -1:]",
        "self.last_state = output[0][:, :1]",
        SHARED,
    ),
    Fault(
        "dropout is on in a shared prefix",
        "step/shared_prefix/prefix.py",
        "not isinstance(value, float) or value <= 0:",
        "not isinstance(value, float) or value <= 2:",
        ("step/shared_prefix/test_prefix.py::test_dropout_falls_back",),
    ),
    Fault(
        "the soft cap is forgotten",
        "step/model.py",
        'getattr(config, "final_logit_softcapping", None)',
        "None",
        FAMILIES,
    ),
    Fault(
        "the head's bias is forgotten",
        "step/head.py",
        "bias = None if self.bias is None else self.bias[start:end]",
        "bias = None",
        ("step/test_lookahead.py",),
    ),
    Fault(
        "a token of a later tile is counted from the tile's start",
        "step/lookahead.py",
        "top1 = torch.where(value > best, index + start, top1)",
        "top1 = torch.where(value > best, index, top1)",
        ("step/test_lookahead.py",),
    ),
    Fault(
        "the sampled noise belongs to the place in the batch",
        "step/lookahead_variants.py",
        "document = document_hashes(input_ids, layout)",
        "document = layout.documents",
        ("step/test_lookahead.py::test_noise_is_the_rows_own_in_any_batch",),
    ),
    Fault(
        "the nll is not that of the look-ahead",
        "step/algorithm.py",
        "layout.scatter(guess.nll, zeros)",
        "layout.scatter(guess.nll * 2, zeros)",
        OPTIONS,
    ),
    Fault(
        "a mean per micro-batch",
        "training/trainer.py",
        "num_items=num_items_in_batch,",
        "num_items=None,",
        ACCUMULATION,
    ),
    Fault(
        "accumulation divides twice",
        "training/trainer.py",
        "loss_is_scaled_for_ga = True",
        "loss_is_scaled_for_ga = False",
        ACCUMULATION,
    ),
    Fault(
        "a mean per rank",
        "training/trainer.py",
        "return self.accelerator.gather(items).sum() // self.get_tp_size()",
        "return items",
        RANKS,
    ),
    Fault(
        "rows come twice in the last batch",
        "training/last_batch.py",
        "batches.sampler = FilledSampler(batches.sampler, len(rows), multiple)",
        "pass",
        RANKS,
    ),
    Fault(
        "the last batch's fillers train",
        "training/last_batch.py",
        'return row if index < len(self) else {**row, "labels": [IGNORED] * len(row["labels"])}',
        "return row",
        RANKS,
    ),
    Fault(
        "the step goes around FSDP2's hooks",
        "step/algorithm.py",
        "scores: TokenScores = model(",
        "scores: TokenScores = model.forward(",
        RANKS,
    ),
    Fault(
        "the ranks' average is not undone",
        "training/trainer.py",
        "loss = loss * (self.accelerator.num_processes // self.get_tp_size())",
        "pass",
        RANKS,
    ),
    Fault(
        "the experts' loss is dropped",
        "training/trainer.py",
        "loss = loss + self.router_aux_loss_coef * result.scores.aux_loss / steps",
        "pass",
        ("training/test_trainer.py::test_the_experts_auxiliary_loss_is_kept",),
    ),
    Fault(
        "lambda is noisy in evaluation",
        "training/trainer.py",
        'if mode != "train":\n            return scheduled',
        'if mode == "train":\n            return scheduled',
        (
            "training/test_trainer.py::test_noisy_lambda_is_the_same_in_every_accumulation_and_off_in_evaluation",
        ),
    ),
    Fault(
        "models whose attention mixes documents are packed",
        "training/trainer.py",
        "                check_packing(self.model)",
        "                pass",
        ("training/test_trainer.py::test_packing_is_refused_for_a_family_that_mixes_documents",),
    ),
    Fault(
        "user turns are trained",
        "data/masks.py",
        "labels, merged = list(ids) if everything else [IGNORED] * len(ids), 0",
        "labels, merged = list(ids), 0",
        ("data/test_data_masks.py::test_the_trained_text_of_each_family",),
    ),
    Fault(
        "tokens of a prompt that is cut differently before its answer are trained",
        "data/masks.py",
        "        first += 1\n    return first",
        "        break\n    return first",
        (
            "data/test_data_masks.py::test_a_prompt_cut_differently_once_an_answer_follows_is_counted",
            "data/test_data_text.py",
        ),
    ),
    Fault(
        "models that see later tokens are trained",
        "step/forward.py",
        "        check_causal(model)",
        "        pass",
        ("step/test_architectures.py::test_a_model_that_sees_later_tokens_is_refused",),
    ),
    Fault(
        "the check passes over files that lack tensors",
        "check/trainer_build.py",
        "        found += _wrong_tensors(stage)",
        "        pass",
        ("cli/test_trainer_build.py::test_check_and_train_refuse_files_with_other_tensors_alike",),
    ),
    Fault(
        "the rejected side is trained",
        "data/conversion.py",
        'row = _pair(source, "prompt", answer)',
        'row = _pair(source, "prompt", "rejected")',
        ("data/test_data_formats.py::test_the_chosen_side_is_trained_and_the_rejected_is_not",),
    ),
    Fault(
        "baselines: the KL is the policy's to the reference",
        "methods/token_kl.py",
        "(reference.exp() * (reference - policy)).sum(-1)",
        "(policy.exp() * (policy - reference)).sum(-1)",
        LOSSES,
    ),
    Fault(
        "baselines: TDPO2 lets gradient through the chosen KL",
        "methods/tdpo.py",
        "alpha * (kl_l - kl_w.detach())",
        "alpha * (kl_l - kl_w)",
        LOSSES,
    ),
    Fault(
        "baselines: TDPO1 holds the chosen KL still",
        "methods/tdpo.py",
        "kl_l - kl_w if version",
        "kl_l - kl_w.detach() if version",
        LOSSES,
    ),
    Fault(
        "baselines: the KL difference has the other sign",
        "methods/tdpo.py",
        "ratio_w - ratio_l - change",
        "ratio_w - ratio_l + change",
        LOSSES,
    ),
    Fault(
        "baselines: chosen and rejected change places in TDPO",
        "methods/tdpo.py",
        "(ratio_w, ratio_l), (kl_w, kl_l)",
        "(ratio_l, ratio_w), (kl_l, kl_w)",
        LOSSES,
    ),
    Fault(
        "baselines: the head's soft-capping is left out of TDPO",
        "methods/token_kl.py",
        "head.logits(states, 0",
        "Head(head.weight, head.bias, head.scale, None).logits(states, 0",
        LOSSES,
    ),
    Fault(
        "baselines: the head's scale is left out of TDPO",
        "methods/token_kl.py",
        "head.logits(states, 0",
        "Head(head.weight, head.bias, 1.0, head.softcap).logits(states, 0",
        LOSSES,
    ),
    Fault(
        "baselines: the head's bias is left out of TDPO",
        "methods/token_kl.py",
        "head.logits(states, 0",
        "Head(head.weight, None, head.scale, head.softcap).logits(states, 0",
        LOSSES,
    ),
    Fault(
        "baselines: adapters stay on in TDPO's reference",
        "methods/tdpo.py",
        'other, adapters_off = model, use_adapter(peft, "ref" if "ref" in peft.peft_config else None)',
        "other, adapters_off = model, nullcontext()",
        LOSSES,
    ),
    Fault(
        "baselines: dropout stays on in TDPO's reference",
        "methods/tdpo.py",
        "adapters_off, evaluating(other),",
        "adapters_off,",
        LOSSES,
    ),
    Fault(
        "baselines: the policy of TDPO bypasses the wrapper",
        "methods/tdpo.py",
        "found = model(**kwargs, token_kl=reference)",
        "found = self.model(**kwargs, token_kl=reference)",
        TDPO_RANKS,
    ),
    Fault(
        "baselines: TDPO scores the prompt too",
        "methods/tdpo.py",
        'inputs["completion_mask"] == 0',
        'inputs["attention_mask"] == 0',
        LOSSES,
    ),
    Fault(
        "baselines: a chunk loses its last position",
        "methods/token_kl.py",
        "slice(n, n + ROWS_OF_A_CHUNK)",
        "slice(n, n + ROWS_OF_A_CHUNK - (n > 0))",
        LOSSES,
    ),
    Fault(
        "baselines: ORPO's likelihood is trl's",
        "methods/preference.py",
        'self.args.orpo_likelihood == "all"',
        'self.args.orpo_likelihood != "none"',
        LOSSES,
    ),
    Fault(
        "baselines: SimPO has trl's likelihood term",
        "methods/table.py",
        '"cpo_alpha": 0.0',
        '"cpo_alpha": 1.0',
        LOSSES,
    ),
    Fault(
        "baselines: SimPO's gamma is the ratio",
        "methods/table.py",
        '"simpo_gamma": 1.6',
        '"simpo_gamma": 0.8',
        LOSSES,
    ),
    Fault(
        "baselines: ORPO's beta is trl's",
        "methods/table.py",
        '{"beta": 0.25}',
        '{"beta": 0.1}',
        LOSSES,
    ),
    Fault(
        "baselines: SFT keeps the propagation",
        "methods/table.py",
        '"propagation": "none", **_OWN',
        '"propagation": "bellman", **_OWN',
        LOSSES,
    ),
    Fault(
        "baselines: NEFTune's noise is off",
        "methods/table.py",
        '{"neftune_noise_alpha": 5.0}',
        '{"neftune_noise_alpha": 0.5}',
        LOSSES,
    ),
    Fault(
        "baselines: pairs lose their end token",
        "data/pairs.py",
        "ids, labels = tokens.input_ids[:max_length], tokens.labels[:max_length]",
        "ids, labels = tokens.input_ids[:-1], tokens.labels[:-1]",
        PAIRS,
    ),
    Fault(
        "baselines: shared turns are compared",
        "data/pairs.py",
        'turn["train"] = False',
        "pass",
        PAIRS,
    ),
    Fault(
        "baselines: identical pairs are kept",
        "data/pairs.py",
        'if not result["ift_reason"] and result["chosen_input_ids"] == result["rejected_input_ids"]:',
        "if False:",
        PAIRS,
    ),
    Fault(
        "baselines: the second stage starts from the base",
        "runs/train_run.py",
        "model_for_next_stage(stage, rows)",
        "stage.model.model_name_or_path",
        METHODS,
    ),
    Fault(
        "baselines: a stage's own flags reach the others",
        "runs/argv.py",
        "into = own if int(match[1]) == number else None",
        "into = own",
        METHODS,
    ),
    Fault(
        "baselines: random guesses stand where the guesses were wrong",
        "methods/controls.py",
        "ids = torch.where(rank < wrong[documents], drawn, targets)",
        "ids = torch.where(guess.top1 != targets, drawn, targets)",
        CONTROLS,
    ),
    Fault(
        "baselines: position weights are bellman's",
        "methods/controls.py",
        "propagation_weights(torch.ones_like(losses), layout",
        "propagation_weights(losses, layout",
        CONTROLS,
    ),
    Fault(
        "report: an interval is for other rows too",
        "lab/report/intervals.py",
        "max(max(self.seeds, self.rest / 2) + self.rows - self.rest, self.seeds)",
        "self.seeds",
        ("lab/report/test_intervals.py",),
    ),
    Fault(
        "compare: a study that its time refuses leaves no rows and logs",
        "lab/compare/study.py",
        'for folder in (self.folder / "logs", self.rows):',
        "for folder in ():",
        ("lab/compare/test_budget.py",),
    ),
    Fault(
        "compare: a shortened training has its share of the steps",
        "lab/compare/user_data.py",
        "config.num_train_epochs *= more_steps * share",
        "config.num_train_epochs *= more_steps",
        ("lab/compare/test_user_data.py",),
    ),
    Fault(
        "report: the best is compared at the level of all comparisons together",
        "lab/report/verdict.py",
        "confidence = joint_confidence(len(sound))",
        "confidence = CONFIDENCE",
        ("lab/report/test_verdict.py",),
    ),
    Fault(
        "runs: a stop within an epoch does not do what its end does",
        "training/checkpoints.py",
        "whole = _ends_epoch(state)",
        "whole = True",
        ("cli/test_resume.py::test_a_run_that_is_stopped_within_an_epoch_does_not_do_what_its_end_does",),
    ),
    Fault(
        "compare: the testbed stores the values of rows of all scores",
        "lab/compare/testbed.py",
        "into.row_scores[split] = rows",
        'into.row_scores[split] = {"exact_match": rows["exact_match"]}',
        ("lab/compare/test_contenders.py",),
    ),
    Fault(
        "check: 8-bit optimisers keep the states of embeddings in 32 bits",
        "check/memory.py",
        "return _states(optimizer) * (FULL - 1) if eight else 0.0",
        "return 0.0",
        ("check/test_memory.py",),
    ),
    Fault(
        "convert-config: rows that are held out are evaluated once an epoch",
        "runs/converted_evaluation.py",
        'return {"eval_strategy": "steps" if settings.get("eval_steps") else "epoch"}',
        'return {"eval_strategy": "steps"}',
        ("runs/test_convert_config.py",),
    ),
    Fault(
        "compare: the best of two rates costs both trainings",
        "lab/compare/trial.py",
        "sum(getattr(cost, name) for cost in costs)",
        "getattr(costs[-1], name)",
        ("lab/compare/test_contenders.py",),
    ),
    Fault(
        "baselines: flooding is of the global batch, not of its last part",
        "methods/controls.py",
        "self.batch_loss = self.batch_loss + loss.detach()",
        "self.batch_loss = loss.detach()",
        CONTROLS,
    ),
]


def planted(fault: Fault | None, folder: Path) -> Path:
    """A copy of src with the fault in it."""
    source = folder / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    if fault is not None:
        path = source / "ift" / fault.file
        text = path.read_text()
        if text.count(fault.old) != 1:
            raise LookupError(f"{fault.file} has {text.count(fault.old)} times, not once: {fault.old!r}")
        path.write_text(text.replace(fault.old, fault.new))
    return source


def tests_fail(source: Path, tests: tuple[str, ...], log: Path) -> bool:
    """Whether one of the tests is red, run in a fork with `source` as the home of `ift`; pytest's own errors raise."""
    child = os.fork()
    if child == 0:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ["PYTHONPATH"] = str(source)  # for processes that a test starts
        sys.path[:0] = [str(source), str(ROOT / "tests")]
        sys.dont_write_bytecode = True
        status = 99
        try:
            import pytest

            import ift

            assert Path(ift.__file__).is_relative_to(source), ift.__file__
            nodes = [str(ROOT / "tests" / test) for test in tests]
            options = ["-x", "-q", "-p", "no:cacheprovider", "--show-capture=no", f"--rootdir={ROOT}"]
            status = int(pytest.main([*options, "-c", str(ROOT / "pyproject.toml"), *nodes]))
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, 1):
        raise RuntimeError(f"pytest ended with {status}: {log.read_text()[-3000:]}")
    return status == 1


def preload() -> None:
    """Load what is slow to load, once; `ift` itself only in the forks."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import hypothesis  # noqa: F401
    import peft  # noqa: F401
    import torch
    import transformers  # noqa: F401
    import trl  # noqa: F401
    from transformers import AutoModelForCausalLM, Trainer  # noqa: F401
    from trl import SFTConfig, SFTTrainer  # noqa: F401

    torch.set_num_threads(1)
    assert "ift" not in sys.modules


def main(words: list[str]) -> int:
    """Plant the faults whose name has all the words; returns the exit status."""
    chosen = [fault for fault in FAULTS if all(word in fault.name for word in words)]
    if not chosen:
        print("no fault has these words in its name")
        return 1
    preload()
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary) / "log"
        sound = planted(None, Path(temporary) / "sound")
        every = tuple(dict.fromkeys(test for fault in chosen for test in fault.tests))
        if tests_fail(sound, every, log):
            print(f"the tests are red without any fault:\n{log.read_text()[-3000:]}")
            return 1
        print(f"{'fault':<58} {'file':<30} {'seconds':>7}  outcome")
        for number, fault in enumerate(chosen):
            begin = time.perf_counter()
            try:
                red = tests_fail(planted(fault, Path(temporary) / str(number)), fault.tests, log)
                outcome = "found" if red else "NOT FOUND: the tests are green"
            except (LookupError, RuntimeError) as error:
                red, outcome = False, f"STALE: {error}"
            bad += not red
            seconds = time.perf_counter() - begin
            print(f"{fault.name:<58} {fault.file:<30} {seconds:7.1f}  {outcome}", flush=True)
    print(f"{len(chosen) - bad} of {len(chosen)} faults found")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
