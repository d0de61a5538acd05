"""What calls take: guessed until the first answer, then learnt from what they took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from worker.limits.scope import Vector

GUESS_OUTPUT: Final = 200.0
GUESS_MOST: Final = 1000.0  # a ceiling says little: nobody asks for as much as they allow
CAUTION: Final = 3.0  # a guess may be so many times too small; reserved until the first answer
NEWEST: Final = 0.1  # weight of the newest answer in what is learnt, once there are more than a few


@dataclass(frozen=True, slots=True)
class Size:
    """What a call may take: estimated input tokens, and the ceiling its caller set for the answer."""

    input_tokens: int = 0
    ceiling: int | None = None


@dataclass(slots=True)
class Sizes:
    """What the calls of a line take, learnt from what they took: means over the newest answers."""

    answers: int = 0
    guessed: float = 0.0  # input tokens as they were estimated ...
    input: float = 0.0  # ... and as they were
    output: float = 0.0

    def learn(self, guessed: float, used_in: float, used_out: float) -> None:
        self.answers += 1
        weight = max(NEWEST, 1.0 / self.answers)
        self.guessed += weight * (guessed - self.guessed)
        self.input += weight * (used_in - self.input)
        self.output += weight * (used_out - self.output)

    def usual(self, size: Size) -> tuple[float, float]:
        """Tokens of such a call and its answer."""
        if self.answers == 0:
            output = GUESS_OUTPUT if size.ceiling is None else min(size.ceiling, GUESS_MOST)
            return float(size.input_tokens), output
        ratio = self.input / self.guessed if self.guessed > 0.0 else 1.0
        return size.input_tokens * ratio, self.output if size.ceiling is None else min(size.ceiling, self.output)

    def cost(self, size: Size) -> Vector:
        """What is reserved for it."""
        tokens, output = self.usual(size)
        if self.answers == 0:
            tokens *= CAUTION
            output *= CAUTION if size.ceiling is None else 1.0
        return (1.0, tokens + output, tokens, output)

    @property
    def mean(self) -> Vector:
        """Of one call; no tokens as long as nobody knows."""
        return (1.0, self.input + self.output, self.input, self.output)
