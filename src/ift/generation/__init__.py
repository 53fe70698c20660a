"""What a model says: prompts, decoding, stored answers, the final answer of a text."""
