"""The sentences of the reasoning world: five kinds of story with a small vocabulary.

A story is a quantity that changes: an opening gives its first value, events change it, a question asks for the last
value. Placeholders: `{p}` and `{q}` are two names, `{g}` the goods, `{a}`, `{b}` and `{k}` whole numbers.
"""

from dataclasses import dataclass

NAMES = ("Tom", "Ana", "Sam", "Mia", "Ben", "Eva", "Max", "Zoe")
GOODS = ("apples", "pens", "books", "cards", "eggs", "stamps", "shells", "nuts")

# What an opening or an event does to the running value v; `a`, `b`, `k` are the numbers its sentence names.
PLUS = "plus"  # v + k
MINUS = "minus"  # v - k
TIMES = "times"  # v * k
HALF = "half"  # v / 2
JOIN = "join"  # v + the other person's number, named in the opening
OPENING_PRODUCT = "product"  # v = a * b
OPENING_MORE = "more"  # v = a + b
OPENING_FEWER = "fewer"  # v = a - b


@dataclass(frozen=True)
class Story:
    """One kind of story.

    Attributes:
        openings: Sentences that begin the story, by opening; every story knows `plain` (v = a).
        events: Sentences that change the value, by event; several wordings each.
        question: The closing question.
        unit: The word after each result of the worked solution; may be `{g}`.
    """

    openings: dict[str, tuple[str, ...]]
    events: dict[str, tuple[str, ...]]
    question: str
    unit: str


GOODS_STORY = Story(
    openings={
        "plain": ("{p} has {a} {g}.", "There are {a} {g} in the box of {p}."),
        OPENING_PRODUCT: ("{p} has {a} boxes with {b} {g} each.", "{p} fills {a} bags with {b} {g} each."),
        OPENING_MORE: ("{q} has {a} {g}. {p} has {b} more than {q}.",),
        OPENING_FEWER: ("{q} has {a} {g}. {p} has {b} fewer than {q}.",),
    },
    events={
        PLUS: ("{p} buys {k} more.", "{p} finds {k} more.", "A friend gives {k} {g} to {p}."),
        MINUS: ("{p} loses {k}.", "{p} sells {k} of them.", "{p} gives {k} to a friend."),
        TIMES: ("Now there are {k} times as many.",),
        HALF: ("{p} gives half of them away.", "{p} sells half of them."),
        JOIN: ("{q} gives all {g} to {p}.",),
    },
    question="How many {g} does {p} have now?",
    unit="{g}",
)

MONEY_STORY = Story(
    openings={
        "plain": ("{p} has {a} coins.", "{p} saves {a} coins."),
        OPENING_PRODUCT: ("{p} works {a} hours and earns {b} coins each hour.",),
        OPENING_MORE: ("{q} has {a} coins. {p} has {b} coins more than {q}.",),
        OPENING_FEWER: ("{q} has {a} coins. {p} has {b} coins fewer than {q}.",),
    },
    events={
        PLUS: ("{p} earns {k} coins.", "{p} gets {k} coins from a friend."),
        MINUS: ("{p} spends {k} coins.", "{p} pays {k} coins for a book."),
        TIMES: ("A prize makes it {k} times as much.",),
        HALF: ("{p} spends half of it.",),
        JOIN: ("{q} gives all coins to {p}.",),
    },
    question="How many coins does {p} have left?",
    unit="coins",
)

PEOPLE_STORY = Story(
    openings={
        "plain": ("{a} people ride a bus.", "A bus starts with {a} people."),
        OPENING_PRODUCT: ("{a} groups of {b} people get on a bus.",),
    },
    events={
        PLUS: ("At the next stop {k} people get on.", "Then {k} more get on."),
        MINUS: ("At the next stop {k} people get off.", "Then {k} get off."),
        HALF: ("Then half of them get off.",),
        TIMES: ("At the market there are {k} times as many.",),
    },
    question="How many people ride the bus now?",
    unit="people",
)

DISTANCE_STORY = Story(
    openings={
        "plain": ("{p} is {a} km from home.", "{p} walks {a} km from home."),
        OPENING_PRODUCT: ("{p} walks {a} hours at {b} km each hour, away from home.",),
    },
    events={
        PLUS: ("Then {p} goes {k} km further.",),
        MINUS: ("Then {p} comes {k} km back.", "Then {p} turns and walks {k} km home."),
        HALF: ("Then {p} goes half of the way back.",),
        TIMES: ("A train takes {p} to a place {k} times as far.",),
    },
    question="How many km from home is {p} now?",
    unit="km",
)

TIME_STORY = Story(
    openings={
        "plain": ("A task takes {p} {a} minutes.", "{p} plans {a} minutes for a task."),
        OPENING_PRODUCT: ("{p} has {a} tasks of {b} minutes each.",),
        OPENING_MORE: ("{q} needs {a} minutes. {p} needs {b} minutes more than {q}.",),
        OPENING_FEWER: ("{q} needs {a} minutes. {p} needs {b} minutes fewer than {q}.",),
    },
    events={
        PLUS: ("A break adds {k} minutes.", "{p} rests {k} minutes more."),
        MINUS: ("A friend saves {p} {k} minutes.", "A trick saves {k} minutes."),
        HALF: ("A machine does half of it.",),
        TIMES: ("Then {p} must do it {k} times.",),
        JOIN: ("{p} does the work of {q} too.",),
    },
    question="How many minutes does {p} need?",
    unit="minutes",
)

STORIES = (GOODS_STORY, MONEY_STORY, PEOPLE_STORY, DISTANCE_STORY, TIME_STORY)
