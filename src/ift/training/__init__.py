"""trl's SFTTrainer with the step."""
