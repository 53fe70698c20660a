"""Which facts an E2E answer states: a score of its own for `ift compare` and `ift score`, `--score slots.py:slots`.

The patterns were written while reading references of devset.csv, of which training rows are made, and no answer of a
model. `python slots.py devset.csv testset_w_refs.csv` prints how many facts they find in the human references of each
file. People leave facts out as well, so this is the value of a good answer rather than a test of the patterns alone.
"""

from __future__ import annotations

import csv
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

_CHEAP = r"cheap|inexpensive|affordable|budget|low\w*[- ](?:\w+ )?(?:pric|cost)|pri[cz]\w*[\w ]{0,15} low"
_DEAR = r"expensive|pricey|costly|high\w*[- ](?:\w+ )?(?:pric|cost)|not cheap|pri[cz]\w*[\w ]{0,15} high"
_MIDDLE = r"moderate|average|\bmid|medium|reasonabl|fair"
_BAD = r"low|poor|bad|not (?:\w+ ){0,2}(?:recommend|rated)|\b(?:1|one)\b"
_FAIR = r"average|moderate|decent|ok|\b(?:3|three)\b"
_GOOD = r"high|excellent|great|good|perfect|top|best|well[- ]|\b(?:5|five)\b"
_CHILD = r"(?:famil|kid|child)\w*"
_NO_CHILD = "|".join(
    [
        rf"(?:\bnot?\b|\bnon|n't|\bun|without)[\w' -]{{0,30}}{_CHILD}",
        rf"{_CHILD}[- ](?:unfriendly|(?:are|is) not|aren't|isn't)",
        r"adults?\b",
    ]
)
# slot -> value -> what states it; names are looked for as they are written
PATTERNS = {
    "eatType": {
        "coffee shop": r"coffee|caf",
        "pub": r"\bpub\b|\bbar\b",
        "restaurant": r"restaurant|place|eatery|dining",
    },
    "food": {
        "English": r"english|british|fish and chips",
        "Chinese": r"chinese|asian",
        "French": r"french",
        "Japanese": r"japan|sushi",
        "Fast food": r"fast[- ]?food",
        "Italian": r"italia|pasta|pizza",
        "Indian": r"india|curry",
    },
    "priceRange": {
        "cheap": _CHEAP,
        "less than £20": _CHEAP + "|20",
        "moderate": _MIDDLE,
        "£20-25": _MIDDLE + "|2[05]",
        "high": _DEAR,
        "more than £30": _DEAR + "|30",
    },
    "customer rating": {
        "low": _BAD,
        "1 out of 5": _BAD,
        "average": _FAIR,
        "3 out of 5": _FAIR,
        "high": _GOOD,
        "5 out of 5": _GOOD,
    },
    "area": {"riverside": r"river|water", "city centre": r"cent(?:re|er|ral)|downtown|city|town"},
}
# of two values of these slots, only one can be true of a restaurant
EXCLUSIVE = {
    "food": PATTERNS["food"],
    "area": {"riverside": r"riverside|\briver\b", "city centre": r"cent(?:re|er)\b|downtown"},
}
# the neighbour whose name has a kind of food in it
_NEIGHBOUR = "raja indian cuisine"


def slots(prompt: str, answer: str, row: dict[str, Any]) -> dict[str, float]:
    """Share of the restaurant's facts that the answer states, and whether it states nothing that is false.

    Args:
        prompt: not used.
        answer: the model's answer.
        row: with `prompt`, whose last line has the facts as `slot[value], slot[value]`.

    Returns:
        `facts stated`, from 0 to 1, and `nothing false`, 0 or 1: 0 where the answer names another kind of food, the
        other area, or the opposite of familyFriendly. Other false statements are not looked for.
    """
    stated = [states(answer, slot, value) for slot, value in facts(row["prompt"][-1]["content"])]
    false = [name for name, value in facts(row["prompt"][-1]["content"]) if contradicts(answer, name, value)]
    return {"facts stated": sum(stated) / len(stated), "nothing false": float(not false)}


def facts(request: str) -> list[tuple[str, str]]:
    """(slot, value) of a meaning such as `name[The Mill], near[Burger King]`."""
    found: list[tuple[str, str]] = re.findall(r"(\w[\w ]*)\[(.*?)\]", request)
    return found


def states(answer: str, slot: str, value: str) -> bool:
    """Whether the answer states the fact, by this slot's pattern."""
    text = _plain(answer)
    if slot in ("name", "near"):
        return _plain(value) in text
    if slot == "familyFriendly":
        negated = re.search(_NO_CHILD, text) is not None
        return negated if value == "no" else re.search(_CHILD, text) is not None and not negated
    return re.search(PATTERNS[slot][value], text.replace(_NEIGHBOUR, "")) is not None


def contradicts(answer: str, slot: str, value: str) -> bool:
    """Whether the answer states another value than the fact's, and not the fact's too."""
    if slot == "familyFriendly":
        return states(answer, slot, "no" if value == "yes" else "yes")
    text = _plain(answer).replace(_NEIGHBOUR, "")
    others = [pattern for other, pattern in EXCLUSIVE.get(slot, {}).items() if other != value]
    return not states(answer, slot, value) and any(re.search(pattern, text) for pattern in others)


def _plain(text: str) -> str:
    """Lower case, without accents, with single spaces."""
    letters = unicodedata.normalize("NFKD", text.replace("’", "'"))
    return " ".join("".join(one for one in letters if not unicodedata.combining(one)).lower().split())


def main(files: list[str]) -> None:
    """Print the two scores of the human references of each file."""
    for file in map(Path, files):
        with file.open(encoding="utf-8-sig", newline="") as opened:
            lines = list(csv.DictReader(opened))
        found = [slots("", line["ref"], {"prompt": [{"content": line["mr"]}]}) for line in lines]
        shares = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
        print(file.name, ", ".join(f"{name} {share:.3f}" for name, share in shares.items()))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python slots.py FILE.csv ...")
    main(sys.argv[1:])
