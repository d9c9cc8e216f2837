"""A phase of a recipe: one of several trainings in a row, each of which starts from the one before."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from models.config.options import PartName
from models.config.values import FILE_NAME, Checked, within
from operators.documents.tasks import TaskName
from operators.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Phase(Checked, section="phases", error=InputError):
    """What one training has for itself: its data, what is trained, rate and end; all else is the recipe's."""

    name: str = field(metadata=FILE_NAME)
    """Name of the phase, which its runs bear after the recipe's."""
    tasks: tuple[TaskName, ...] = ()
    """Tasks; those of compose where none is given."""
    mixture: tuple[str, ...] = ()
    """Weights of the components that packs are drawn from; those of train where none is given."""
    min_speakers: int | None = field(default=None, metadata=within(1, 1000))
    """Fewest speakers in a conversation."""
    max_speakers: int | None = field(default=None, metadata=within(1, 1000))
    """Most speakers in a conversation."""
    train_conversations: int | None = field(default=None, metadata=within(0, 10**8))
    """Conversations of the train split."""
    only: tuple[PartName, ...] = ()
    """Parts of the model that are trained; those of train where none is given."""
    lr: float | None = field(default=None, metadata=within(0, 100, open_at="low"))
    """Peak learning rate."""
    warmup_steps: int | None = field(default=None, metadata=within(0, 10**9, "steps"))
    """Steps of linear warm-up."""
    steps: int | None = field(default=None, metadata=within(1, 10**9, "steps"))
    """Optimizer steps."""
    patience: int | None = field(default=None, metadata=within(0, 10**6, "validations"))
    """Validations in a row without a lowest loss after which the phase ends early."""

    def rules(self) -> Iterator[str]:
        """Check the values together."""
        if self.min_speakers and self.max_speakers and self.min_speakers > self.max_speakers:
            yield f"phases: {self.name}: min_speakers {self.min_speakers} is above max_speakers {self.max_speakers}"

    def given(self, *names: str) -> dict[str, Any]:
        """Return the values of some fields, without those that are the recipe's.

        >>> Phase(name="a", lr=1e-3).given("lr", "steps", "only")
        {'lr': 0.001}
        """
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None and value != ()}
