"""The error that generation and evaluation raise."""


class EvaluationError(ValueError):
    """An evaluation that cannot be run; the message says what was found and what to give instead."""
