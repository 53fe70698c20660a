"""The table of all methods that can be trained, each exactly as published (docs/baselines.md).

Importing this package imports neither torch, transformers nor trl.
"""

from ift.methods.table import ALIASES, CONTROLS, METHODS, Method, parse_methods

__all__ = ["ALIASES", "CONTROLS", "METHODS", "Method", "parse_methods"]
