"""The error of generation and evaluation."""


class EvaluationError(ValueError):
    """An evaluation that cannot be made; the message says what was found and what to give instead."""
