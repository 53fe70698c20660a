"""The error of this room."""


class JudgeError(ValueError):
    """A judgement that cannot be made; the message says what was found and what to do. It never holds a key."""
