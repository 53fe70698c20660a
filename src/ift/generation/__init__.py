"""Generating answers: prompts, decoding, stored answers, and the final answer in a text."""
