"""Bad steps: what counts as one, and what is done about it."""

import math
import statistics
from dataclasses import dataclass, field

MOST_BAD_STEPS = 20
"""Bad steps in a row after which training stops, whatever the policy."""


@dataclass
class StepGuard:
    """Detects bad steps: a loss or gradient norm that is not finite, or a norm far above recent ones."""

    factor: float
    """A norm this many times the recent median is a spike; 0 allows any."""
    norms: list[float] = field(default_factory=list)
    """Gradient norms of recent good steps."""

    WINDOW = 64

    def fault(self, loss: float, norm: float) -> str | None:
        """Return what is wrong with a step, or None; the norm of a good step is remembered."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the norm of the gradient is {norm}"
        if self.factor and len(self.norms) >= self.WINDOW // 4:
            usual = statistics.median(self.norms)
            if norm > self.factor * usual:
                return f"the norm of the gradient is {norm:.3g}, usually {usual:.3g}"
        self.norms = [*self.norms, norm][-self.WINDOW :]
        return None
