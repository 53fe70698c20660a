"""Token weights for `ift compare --methods "ift FILE.py:FUNCTION"` and for contenders.py.

Shape legend: B rows, T positions.
"""

import torch
from torch import Tensor

from ift.step.equations import propagation_weights
from ift.step.rows import RowLayout

GAMMA = 0.95


def released_but_the_end(losses: Tensor, layout: RowLayout) -> Tensor:
    """The released gradient; the last token of each answer has weight 1 and no part in the others' weights.

    For rows with one answer each, not packed. `losses` and the result are (B, T).
    """
    after = torch.nn.functional.pad(layout.trained[:, 1:], (0, 1))
    last = layout.trained & ~after
    found = propagation_weights(
        torch.where(last, losses.detach(), losses), layout, gamma=GAMMA, detach="none"
    )
    return torch.where(last, 1.0, found)
