"""Generates answers: prompts, decoding, storage of answers, and extraction of the final answer from a text."""
