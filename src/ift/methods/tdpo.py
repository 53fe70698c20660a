"""TDPO (Zeng et al., *Token-level Direct Preference Optimization*, arXiv:2404.11999), which trl does not have.

Shape legend: P pairs, T positions; a batch has 2 P rows, [chosen; rejected].
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import logsigmoid
from trl.trainer.utils import use_adapter

from ift.labels import IGNORED
from ift.methods.preference import PreparedDPOTrainer
from ift.methods.token_kl import STATES, Reference, enable_token_kl
from ift.step.model import evaluating, head_of, unwrapped


def tdpo_losses(ratios: Tensor, kl: Tensor, beta: float, alpha: float, version: int) -> Tensor:
    """Losses of P pairs, (P,). Gradient flows to `ratios` and `kl`; version 2 detaches the chosen answers' KL.

    With u = r_w - r_l: version 1 is `-log s(beta [u - (K_l - K_w)])`, version 2 `-log s(beta [u - alpha (K_l -
    stopgrad(K_w))])`.

    Args:
        ratios: (2 P,), sum over the response of log pi - log pi_ref; chosen first.
        kl: (2 P,), sum over the response of KL(pi_ref || pi).
        beta: The temperature.
        alpha: Weight of version 2.
        version: 1 or 2.
    """
    (ratio_w, ratio_l), (kl_w, kl_l) = ratios.chunk(2), kl.chunk(2)
    change = kl_l - kl_w if version == 1 else alpha * (kl_l - kl_w.detach())
    return -logsigmoid(beta * (ratio_w - ratio_l - change))


class TDPOTrainer(PreparedDPOTrainer):
    """TDPO1 and TDPO2 on prepared pairs; arguments as for `PreparedDPOTrainer`, `args` is a `TDPOSettings`.

    The reference is a second model; with a new adapter, the base with its adapters disabled; and if the training of an
    adapter is continued, the base with trl's frozen copy of it. All are called through their wrappers.

    Raises:
        ValueError: ZeRO-3, `compute_metrics`, or a model with an unknown head.
    """

    _tag_names = ["trl", "tdpo"]  # noqa: RUF012 (trl's own declaration)
    _name = "TDPO"
    _paper = {  # noqa: RUF012
        "title": "Token-level Direct Preference Optimization",
        "id": "2404.11999",
        "citation": "",
    }

    def __init__(self, model: Any, args: Any, **kwargs: Any) -> None:
        if kwargs.get("compute_metrics") is not None:
            raise ValueError("compute_metrics needs the full logits, which TDPO never keeps. Use a callback.")
        if args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3:
            raise ValueError(
                "TDPO projects the reference outside its forward: use ZeRO-2, FSDP2 or DDP, not ZeRO-3."
            )
        super().__init__(model, args, **kwargs)
        enable_token_kl(self.model)
        if self.ref_model is not None:
            enable_token_kl(self.ref_model)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Tensor:
        """Mean TDPO loss over the pairs of the batch, a scalar with gradient."""
        if return_outputs:
            raise ValueError("TDPO never keeps the logits. Set prediction_loss_only to true.")
        kwargs = {name: value for name, value in inputs.items() if name != "completion_mask"}
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED)  # (2 P, T)
        kwargs |= {"labels": labels, "use_cache": False}
        reference = self._reference(model, kwargs)
        if self.aux_loss_enabled:
            kwargs["output_router_logits"] = True
        found = model(**kwargs, token_kl=reference)
        ratios = (found.log_probs - found.reference_log_probs).sum(1)  # (2 P,)
        kl = found.kl.sum(1)  # (2 P,)
        losses = tdpo_losses(ratios, kl, self.beta, self.args.tdpo_alpha, self.args.tdpo_version)
        self._record(found, ratios, kl, inputs["attention_mask"])
        loss = losses.mean()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * found.aux_loss
        return loss

    def _reference(self, model: Any, kwargs: dict[str, Any]) -> Reference:
        """The reference's response states and head, without gradient and dropout."""
        other, adapters_off = self.ref_model, nullcontext()
        if other is None:
            peft = self.accelerator.unwrap_model(self.model)
            assert isinstance(peft, PeftModel)  # nosec B101 # for the type checker
            other, adapters_off = model, use_adapter(peft, "ref" if "ref" in peft.peft_config else None)
        with torch.no_grad(), adapters_off, evaluating(other), self.accelerator.autocast():
            states = other(**kwargs, token_kl=STATES).states
            head = head_of(unwrapped(other))
        torch.clear_autocast_cache()  # weights cast under no_grad have no graph; the policy's pass must cast its own
        return Reference(states, head)

    def _record(self, found: Any, ratios: Tensor, kl: Tensor, attention_mask: Tensor) -> None:
        """Logs the metrics of trl's DPO that apply here, and the sequential KL."""
        mode = "train" if self.model.training else "eval"
        chosen, rejected = (self.beta * ratios.detach()).chunk(2)
        logps, kls = found.log_probs.detach().sum(1).chunk(2), kl.detach().chunk(2)
        values = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            "rewards/margins": chosen - rejected,
            "logps/chosen": logps[0],
            "logps/rejected": logps[1],
            "kl/chosen": kls[0],
            "kl/rejected": kls[1],
        }
        table = self.accelerator.gather_for_metrics(torch.stack(list(values.values()), 1))  # (pairs, metrics)
        for name, value in zip(values, table.mean(0).tolist(), strict=True):
            self._metrics[mode][name].append(value)
        if mode == "train":
            tokens = self.accelerator.gather(attention_mask.sum()).sum().item()
            self._total_train_tokens += tokens // self.get_tp_size()
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
