"""The error of generation and evaluation."""


class EvaluationError(ValueError):
    """An evaluation that cannot be run; the message says what was found and what to give instead."""
