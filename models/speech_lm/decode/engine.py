"""Continuous batching: a slot whose answer has ended is given the next prompt, while the others go on.

Source: Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative Models", OSDI, section 3.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from models.speech_lm.decode.graphs import Runner

Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)


class Slots(Protocol[Answer_co]):
    """Answers being decoded."""

    def look(self) -> list[bool]:
        """Return which slots are still running."""
        ...

    def read(self, slots: Sequence[int]) -> Sequence[Answer_co]:
        """Return the answers of some slots."""
        ...


def decode_all(
    slots: Slots[Answer],
    number_of_slots: int,
    fill: Callable[[list[int], list[int]], list[int]],
    number_of_prompts: int,
    runner: Runner,
    look_every: int,
    most_steps: int,
) -> tuple[list[Answer], int]:
    """Decode the answers to prompts in a fixed number of slots.

    Args:
        slots: where answers are decoded.
        number_of_slots: B.
        fill: puts prompts (the second list) into free slots (the first); returns the columns of each.
        number_of_prompts: to be answered, in order.
        runner: runs a step of all slots.
        look_every: steps between looks at what has ended.
        most_steps: that an answer can take after its prompt is read.

    Returns:
        The answers in the order of the prompts, and the number of steps.
    """
    answers: dict[int, Answer] = {}
    occupant: dict[int, int] = {}  # number of the prompt in each slot in use
    columns: dict[int, int] = {}  # of each slot in use: an upper bound, for the host does not see ends
    left: dict[int, int] = {}
    waiting, steps = 0, 0
    while True:
        if occupant:
            running = slots.look()
            ended = [slot for slot in occupant if not running[slot]]
            for slot, answer in zip(ended, slots.read(ended) if ended else (), strict=True):
                answers[occupant.pop(slot)] = answer
        free = [slot for slot in range(number_of_slots) if slot not in occupant]
        taken = list(range(waiting, min(waiting + len(free), number_of_prompts)))
        if taken:
            used = free[: len(taken)]
            for slot, number, length in zip(used, taken, fill(used, taken), strict=True):
                occupant[slot], columns[slot], left[slot] = number, length, most_steps
            waiting += len(taken)
            continue  # an answer may have ended at once
        if not occupant:
            break
        for _ in range(min(look_every, max(left[slot] for slot in occupant))):
            runner(max(columns[slot] for slot in occupant) + 1)
            steps += 1
            for slot in occupant:
                columns[slot] += 1
                left[slot] -= 1
    return [answers[number] for number in range(number_of_prompts)], steps
