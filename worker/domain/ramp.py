"""How much of a batch goes before all else of its project, so that it ends within its window.

A plan is a straight line: at every moment of the window so much of the batch ought to have ended, and all of it while a
fifth of the window is left. A batch that keeps to it is nobody's concern. Of one that is behind, so many lines are
urgent at a time as it takes to be done by the end of the plan: the less time is left, and the more lines, the more of
them; after the end of the plan, all. What a project has in other lanes, and what other projects have, is not touched.
"""

from __future__ import annotations

import math
from typing import Final

URGENT: Final = 3  # the priority of such a line: above all that people may ask for
RESERVE: Final = 0.2  # of the window: what calls that are repeated and surprises may take
GRACE: Final = 0.02  # of the batch: who waits a little at first is not behind
HORIZON_S: Final = 10.0  # urgent lines last so long at the pace that is needed


def urgent(total: int, ended: int, remaining_s: float, window_s: float) -> int:
    """How many of the lines that have not ended ought to be urgent now; 0: the batch keeps to its plan.

    remaining_s  of its window, which is `window_s` long
    """
    left = total - ended
    if left <= 0 or remaining_s <= 0:
        return 0
    plan_s = remaining_s - RESERVE * window_s
    if plan_s <= HORIZON_S:
        return left
    planned = total * plan_s / (window_s - RESERVE * window_s)  # what may be left now
    if left <= planned + GRACE * total:
        return 0
    return min(left, math.ceil(left * HORIZON_S / plan_s))
