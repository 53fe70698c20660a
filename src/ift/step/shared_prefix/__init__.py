"""Computes the tokens before the first trained one of a row once for both passes of a step."""
