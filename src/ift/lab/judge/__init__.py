"""Judges answers with a language model behind an OpenAI-compatible endpoint: win rates, grades and their cost."""
