"""Ready configurations for `accelerate launch`, by name: `ift train --accelerate_config NAME`."""
