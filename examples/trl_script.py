"""A script in the manner of trl's: its parser, its dataclasses, IFTTrainer in place of SFTTrainer.

    python examples/trl_script.py --model_name_or_path MODEL --dataset_name DATA --output_dir aligned --max_steps 100

`ift train` does more (it checks the run first, and verifies what it saved); this is the frame for a script of your own.
"""

from __future__ import annotations

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config

from ift import IFTConfig, IFTTrainer


def main(arguments: list[str] | None = None) -> IFTTrainer:
    """Parses, trains, saves; returns the trainer."""
    script, config, model = TrlParser((ScriptArguments, IFTConfig, ModelConfig)).parse_args_and_config(
        arguments
    )
    if script.dataset_name.endswith((".json", ".jsonl")):
        dataset = load_dataset("json", data_files=script.dataset_name)
    else:
        dataset = load_dataset(script.dataset_name, name=script.dataset_config)
    config.model_init_kwargs = {"dtype": model.dtype, "attn_implementation": model.attn_implementation}
    trainer = IFTTrainer(
        model=model.model_name_or_path,
        args=config,
        train_dataset=dataset[script.dataset_train_split],
        eval_dataset=dataset.get(script.dataset_test_split) if config.eval_strategy != "no" else None,
        peft_config=get_peft_config(model),
    )
    trainer.train()
    trainer.save_model(config.output_dir)
    return trainer


if __name__ == "__main__":
    main()
