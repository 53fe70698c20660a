"""IFTTrainer: trl's SFTTrainer with the IFT step."""

from __future__ import annotations

import copy
import inspect
import logging
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from accelerate.utils import DynamoBackend
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTTrainer
from trl.trainer.utils import global_then_local_main_first

from ift.data import end_of_turn_ids, prepare_dataset
from ift.models.adapters import check_adapter_names
from ift.models.limits import positions_of
from ift.models.stop_tokens import stop_generation_at
from ift.step.algorithm import ChangeGuess, ScoreTokens, enable_residual, ift_loss
from ift.step.equations import TokenWeights, name_of, try_weights
from ift.step.model import has_weights
from ift.step.model_checks import check_packing
from ift.step.rows import count_items, row_layout
from ift.step.settings import StepSettings
from ift.training.checkpoints import WritesInCheckpoints, changed_settings, write_settings
from ift.training.compile import compile_blocks
from ift.training.config import LAMBDA_FIELDS, METHOD_FIELDS, IFTConfig, config_for, preparation
from ift.training.formatting import format_rows
from ift.training.lambda_schedule import noisy_lambda, scheduled_lambda
from ift.training.last_batch import CountsRowsOnce
from ift.training.loaded_dtypes import KeepsDtypes
from ift.training.metrics import MetricsFile, RunningMeans, TokenRate, row_statistics
from ift.training.model_card import CITATION, add_settings, card_settings
from ift.training.non_finite import StopsAtNonFinite
from ift.training.own_functions import use_functions_of_class
from ift.training.refused_arguments import refuse_arguments
from ift.training.telemetry import NoTelemetry
from ift.training.tied_weights import KnowsTiedWeights
from ift.user_code import file_sha256, load_function

logger = logging.getLogger(__name__)


class IFTTrainer(NoTelemetry, KeepsDtypes, StopsAtNonFinite, KnowsTiedWeights, CountsRowsOnce, SFTTrainer):
    """Trains a causal language model with Intuitive Fine-Tuning (arXiv:2405.11870v3) on target answers.

    Takes the arguments of `trl.SFTTrainer` and data in any format of docs/data.md; only completions and assistant turns
    are trained. lambda 0 with `propagation="none"` and `loss_reduction="token"` is SFT.

    Raises:
        ValueError: A model, option or data set that cannot be trained exactly; the message says what to change.
        NonFiniteError: From `train`, at the first loss or gradient that is not finite.
    """

    _tag_names = ["trl", "ift"]  # noqa: RUF012 (trl's own declaration)
    _name = "IFT"
    _paper = {  # noqa: RUF012
        "title": "Intuitive Fine-Tuning: Towards Simplifying Alignment into a Single Process",
        "id": "2405.11870",
        "citation": CITATION,
    }
    loss_is_scaled_for_ga = True
    change_guess: ChangeGuess | None = None
    token_weights: TokenWeights | None = None
    score_tokens: ScoreTokens | None = None  # a derived class may set these three, also as methods

    def __init__(self, model: Any, args: IFTConfig | None = None, **kwargs: Any) -> None:
        """Same arguments as `trl.SFTTrainer`; `args` is an `IFTConfig`.

        Rows that are dropped, tokens that `max_length` cuts, and what of the rows is not used are logged as warnings;
        `trainer.data_reports` has the `DataReport` of each data set. The argument `data_reports` maps the data sets
        that are already prepared with `ift.data` ("train", "eval", ...) to theirs.
        """
        args = config_for(model, args)
        refuse_arguments(kwargs)
        if args.token_weights is not None:
            self.token_weights = load_function(args.token_weights, "--token_weights")
            self._token_weights_sha256 = file_sha256(args.token_weights)
        use_functions_of_class(self)
        if self.token_weights is not None and not inspect.ismethod(self.token_weights):
            try_weights(self.token_weights, args.device)
        eval_sets = kwargs.get("eval_dataset")
        if isinstance(eval_sets, dict) and args.metric_for_best_model == "eval_nll":
            args.metric_for_best_model = f"eval_{next(iter(eval_sets))}_nll"
        self._positions = positions_of(model)
        self.data_reports: dict[str, Any] = dict(kwargs.pop("data_reports", None) or {})
        self._already_prepared = set(self.data_reports)
        given = copy.copy(kwargs.get("peft_config"))  # peft fills in what is not set
        super().__init__(model, args, **kwargs)
        check_adapter_names(self.model, given)
        self._already_prepared.clear()  # a data set passed to `evaluate` later is new
        if self._is_vlm or self._is_vision_dataset:
            raise ValueError(
                "IFT trains on text; images are not supported. Give a tokenizer and a text data set."
            )
        parallel = self.accelerator.parallelism_config
        if parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
            raise ValueError(
                "Context and sequence parallelism split rows, and a token's weight is a sum over its whole row. "
                "Use data parallelism (DDP, FSDP, ZeRO)."
            )
        with self.compute_loss_context_manager():
            enable_residual(self.model)
            if self.padding_free and has_weights(self.model):
                check_packing(self.model)
        compiler = self.accelerator.state.dynamo_plugin
        if compiler.backend != DynamoBackend.NO and not compiler.use_regional_compilation:
            # dynamic: shapes vary between batches, and torch recompiles a layer at most 8 times
            compile_blocks(self.model, **{"dynamic": True, **compiler.to_kwargs()})
        stop_generation_at(self.model, ends := sorted(end_of_turn_ids(self._tokenizer)))
        self._eos_ids = torch.tensor(ends, dtype=torch.int64, device=self.args.device)
        self._total_train_tokens = 0  # trl logs it as num_tokens
        self._uncounted_tokens: list[Tensor] = []  # of the steps since `_count_tokens`
        self._means = {"train": RunningMeans(), "eval": RunningMeans()}
        self._rate = TokenRate()
        self.add_callback(MetricsFile())
        self.add_callback(WritesInCheckpoints(lambda folder: write_settings(folder, self._method_settings())))

    def _method_settings(self) -> dict[str, Any]:
        """The settings that had an effect; a function that replaces a part is named in the part's place."""
        names = (*METHOD_FIELDS, *LAMBDA_FIELDS, "token_weights")
        found = {name: getattr(self.args, name) for name in names}
        if self.args.token_weights is not None:
            found["token_weights_sha256"] = self._token_weights_sha256
        for part, function in (("propagation", self.token_weights), ("lookahead", self.change_guess)):
            if function is not None and found[part] in get_args(get_type_hints(StepSettings)[part]):
                found[part] = f"a function: {name_of(function)}"
        if self.score_tokens is not None:
            found["score_tokens"] = f"a function: {name_of(self.score_tokens)}"
        if found["propagation"] not in ("bellman", "cumsum", "position"):
            del found["propagation_gamma"], found["propagation_detach"]
        return found

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """As in trl; warns if the method's settings differ from those of the checkpoint."""
        given = resume_from_checkpoint
        source = get_last_checkpoint(self.args.output_dir) if given is True else given
        if source and (changed := changed_settings(Path(source), self._method_settings())):
            logger.warning(changed)
        if inspect.ismethod(self.token_weights):  # it may use what a derived class sets after `__init__`
            try_weights(self.token_weights, self.args.device)
        self._means["train"], self._rate = RunningMeans(), TokenRate()  # what a run that failed did not log
        self._uncounted_tokens.clear()
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    # --- data ---------------------------------------------------------------------------------------------------------

    def _prepare_dataset(
        self,
        dataset: Dataset | IterableDataset,
        processing_class: Any,
        args: Any,
        packing: bool,
        formatting_func: Any,
        dataset_name: str,
    ) -> Dataset | IterableDataset:
        """Prepares the rows with `ift.data`; trl then packs and shuffles them."""
        if dataset_name in self._already_prepared:
            return super()._prepare_dataset(dataset, processing_class, args, packing, None, dataset_name)
        with global_then_local_main_first():
            if formatting_func is not None:
                dataset = format_rows(dataset, formatting_func, dataset_name, args.dataset_num_proc)
            how = {"positions": self._positions, **preparation(args)}
            prepared = prepare_dataset(dataset, processing_class, name=dataset_name, **how)
        self.data_reports[dataset_name] = prepared.report
        if args.process_index == 0:
            report = prepared.report
            logger.info("%s data: format: %s; %s", dataset_name, report.format, report.explanation)
            for line in report.remarks():
                logger.warning("%s data: %s", dataset_name, line)
        return super()._prepare_dataset(prepared.dataset, processing_class, args, packing, None, dataset_name)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        """Rows ("sequence") or trained tokens ("token") of the global batch: all micro-batches, all ranks.

        The ranks of a tensor-parallel group have the same rows, which count once.
        """
        layouts = [
            row_layout(batch["labels"], batch.get("attention_mask"), batch.get("position_ids"))
            for batch in batch_samples
        ]
        counts = [count_items(layout, self.args.loss_reduction) for layout in layouts]
        items = torch.stack(counts).sum().to(device) if counts else torch.tensor(0, device=device)
        if self.args.world_size == 1:
            return items
        return self.accelerator.gather(items).sum() // self.get_tp_size()

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; starts without the rows of a loop that was not logged (`predict`, or one that failed)."""
        self._means["eval"] = RunningMeans()
        return super().evaluation_loop(*args, **kwargs)

    # --- the step -----------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The loss of a micro-batch, scaled so that the gradients of all micro-batches and ranks add up."""
        if return_outputs:
            raise ValueError(
                "IFT never builds the logits. Set prediction_loss_only=True, or leave compute_metrics out."
            )
        mode = "train" if self.model.training else "eval"
        if mode == "train":
            self._rate.start()
        settings = self.args.step_settings(
            residual_lambda=self._residual_lambda(mode), step=self.state.global_step
        )
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        result = ift_loss(
            model,
            inputs,
            settings,
            num_items=num_items_in_batch,
            change_guess=self.change_guess,
            token_weights=self.token_weights,
            score_tokens=self.score_tokens,
        )
        loss = result.loss
        extra: dict[str, Any] = {"lambda": settings.residual_lambda} if self.args.has_lambda else {}
        if num_items_in_batch is not None:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())  # DDP averages over ranks
        if result.scores.aux_loss is not None:
            steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            loss = loss + self.router_aux_loss_coef * result.scores.aux_loss / steps
            extra["aux_loss"] = self.accelerator.gather(result.scores.aux_loss.detach()).mean()
        if result.scores.shared_prefix is not None:
            extra["shared_prefix"] = float(result.scores.shared_prefix)
        rows = row_statistics(result, inputs["labels"], self._eos_ids.to(inputs["labels"].device), self.args)
        rows = self.accelerator.gather(rows) if mode == "train" else self.accelerator.gather_for_metrics(rows)
        if mode == "train":
            self._uncounted_tokens.append(rows[:, 0].sum())
        self._means[mode].add(rows, result.scores.lookahead_ids is not None, **extra)
        return loss

    def _count_tokens(self) -> None:
        """Counts `num_tokens`, also across resumed runs: in transformers' state, unless that counts tokens itself.

        Called only where the number is needed: each call causes a GPU synchronisation.
        """
        if not self._uncounted_tokens:
            return
        seen = int(torch.stack(self._uncounted_tokens).sum()) // self.get_tp_size()
        self._uncounted_tokens.clear()
        in_state = self.args.include_num_input_tokens_seen == "no"
        if in_state and self.state.num_input_tokens_seen > self._total_train_tokens:
            self._total_train_tokens = self.state.num_input_tokens_seen
        self._total_train_tokens += seen
        self._rate.add(seen)
        if in_state:
            self.state.num_input_tokens_seen = self._total_train_tokens

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """trl's, with the tokens that were trained so far in the state."""
        self._count_tokens()
        super()._save_checkpoint(model, trial)

    def _residual_lambda(self, mode: str) -> float:
        """Lambda of this optimiser step, by the schedule; in training, with noise."""
        args, step = self.args, self.state.global_step
        schedule = (args.residual_lambda, args.residual_lambda_start, args.residual_warmup_ratio)
        scheduled = scheduled_lambda(step, self.state.max_steps, *schedule)
        if mode != "train":
            return scheduled
        return noisy_lambda(scheduled, args.residual_noise_std, args.seed, step)

    # --- logs and the model card --------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the method's metrics to `logs`, with the prefix of the evaluation set if there is one."""
        self._count_tokens()
        means = self._means[mode := "train" if self.model.training else "eval"]
        self._means[mode] = RunningMeans()
        losses = [key for key in logs if mode == "eval" and key.endswith("_loss") and key != "train_loss"]
        prefix = losses[0].removesuffix("loss") if losses else ""
        propagates = self.args.propagation != "none" or self.token_weights is not None
        logs.update({prefix + name: value for name, value in means.summary(propagates).items()})
        logs[prefix + "num_tokens"] = self._total_train_tokens
        if prefix and means.loss is not None:
            logs[prefix + "loss"] = means.loss + self.router_aux_loss_coef * means.extra_mean("aux_loss")
        rate = self._rate.restart()
        if mode == "train" and rate:
            logs["tokens_per_second"] = rate
        super().log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes trl's model card, with the paper and all settings of the method."""
        super().create_model_card(*args, **kwargs)
        path = Path(self.args.output_dir) / "README.md"
        if self.is_world_process_zero() and path.exists():
            add_settings(path, card_settings(self), path.parent.resolve().name)
