"""The errors of this room. No message holds a key."""


class JudgeError(ValueError):
    """A judgement that cannot be made; the message says what was found and what to do."""


class QuestionRefused(JudgeError):
    """One question that the endpoint does not take; the message is the problem that its verdict is counted under."""


class Stopped(JudgeError):
    """A request that was not sent because the run is stopping."""
