"""Answers judged by a language model behind an OpenAI-compatible endpoint: win rates, scores, and what they cost."""
