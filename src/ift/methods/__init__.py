"""Every method that can be trained, each exact to its formula, from one table (docs/baselines.md).

Importing this room imports neither torch, transformers nor trl.
"""

from ift.methods.table import ALIASES, CONTROLS, METHODS, Method, parse_methods

__all__ = ["ALIASES", "CONTROLS", "METHODS", "Method", "parse_methods"]
