"""trl's SFTTrainer with the IFT step."""
