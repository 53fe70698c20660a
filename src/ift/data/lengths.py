"""How many tokens a row may have: by `max_length`, and by the positions that the model was built for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LengthLimit:
    """The limits of a row's length.

    Attributes:
        max_length: Rows are truncated to this many tokens; None for no truncation.
        positions: Positions of the model; None if they are unknown or unlimited.
        positions_name: Their name in the model's configuration.
    """

    max_length: int | None = None
    positions: int | None = None
    positions_name: str = ""

    @property
    def of_model(self) -> bool:
        """Whether rows can reach beyond the model's positions, because `max_length` does not cut them before."""
        return self.positions is not None and (self.max_length is None or self.positions < self.max_length)

    @property
    def tokens(self) -> int | None:
        """The most tokens that a whole row can have; None without a limit."""
        return self.positions if self.of_model else self.max_length

    def __str__(self) -> str:
        """The limit in words, after "longer than"."""
        if self.of_model:
            return f"the {self.positions:,} positions that the model knows ({self.positions_name})"
        return f"--max_length {self.max_length:,}"

    def fix(self, longest: int) -> str:
        """What to do about rows beyond the limit, of which the longest has `longest` tokens."""
        if self.of_model:
            cut = f"--max_length {self.positions} cuts their end"
            return f"Fix: shorten or drop these rows, or take a model with a longer context; {cut}"
        if self.positions is not None and longest > self.positions:
            less = f"; --max_length {self.positions} cuts less" if self.max_length != self.positions else ""
            return (
                f"Fix: shorten or drop these rows, or take a model with a longer context than {self.positions:,} "
                f"positions{less}"
            )
        return f"Fix: raise --max_length to {longest:,}, or shorten the rows"


NO_LIMIT = LengthLimit()


def length_limit(max_length: int | None, positions: tuple[str, int] | None) -> LengthLimit:
    """The limits from `max_length`, and from name and number of the model's positions (None if unknown)."""
    name, number = positions or ("", None)
    return LengthLimit(max_length, number, name)
