"""Answers graded from 1 to 10, each turn after the conversation before it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ift.lab.judge.answers import Answered
from ift.lab.judge.judging import Judged, Question, describe_problems
from ift.lab.judge.questions import read_score, score_question
from ift.lab.judge.table import Line, Table
from ift.lab.judge.win_rate import mean_share
from ift.text import counted


@dataclass(frozen=True)
class Grading:
    """Answers to grade: of all prompts, or of the first of them; `first` is the name of the file they are from."""

    answers: list[Answered]
    first: str

    kind = "grades"

    @property
    def ids(self) -> list[str]:
        """Of the prompts, in order."""
        return [one.id for one in self.answers]

    def questions(self) -> list[Question[float]]:
        """One per turn of each prompt."""
        return [
            Question(
                f"{one.id} turn {turn}",
                score_question(
                    list(one.turns[:turn]),
                    list(one.answers[:turn]),
                    one.references[turn - 1] if turn <= len(one.references) else None,
                ),
                read_score,
            )
            for one, turn in self._turns()
        ]

    def table(self, judged: Sequence[Judged[float]]) -> Table:
        """Means over all answers, each turn and each category, from the outcomes of `questions`."""
        verdicts, groups = [], dict[str, list[float]]()
        for (one, turn), outcome in zip(self._turns(), judged, strict=True):
            problem = {"problem": outcome.problem} if outcome.problem else {}
            verdicts.append(
                {"id": one.id, "turn": turn, "category": one.category, "score": outcome.value, "reply": outcome.reply}
                | problem
            )  # fmt: skip
            if outcome.value is not None:
                for name in ("all", f"turn {turn}", *([one.category] if one.category else [])):
                    groups.setdefault(name, []).append(outcome.value)
        scores = {}
        lines: list[Line] = [("grades", f"{self.first}, from 1 to 10 [95 % interval]")]
        for name, values in groups.items():
            mean = mean_share(values)
            scores[name] = {"n": float(len(values)), "score": mean.value, "low": mean.low, "high": mean.high}
            interval = f"{mean.value:5.2f} [{mean.low:.2f}, {mean.high:.2f}]"
            lines.append((name, f"{interval}  {counted(len(values), 'answer')}"))
        missing = sum(one.value is None for one in judged)
        if missing:
            problems = describe_problems(one.problem for one in judged)
            lines.append(("left out", f"{counted(missing, 'answer')} without a grade: {problems}"))
        return Table(verdicts, scores, lines)

    def _turns(self) -> list[tuple[Answered, int]]:
        return [(one, turn) for one in self.answers for turn in range(1, len(one.turns) + 1)]
