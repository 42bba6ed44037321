"""Times that can be compared: the methods take turns in one process, and the best of several rounds counts."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

# So many rounds are done whatever the budget.
LEAST_ROUNDS = 3


@dataclass
class Method:
    """One of several ways to do the same.

    Attributes:
        name: of the column in which it stands.
        step: what is measured.
        prepare: what has to be done before each step and is not measured.
    """

    name: str
    step: Callable[[], object]
    prepare: Callable[[], object] = lambda: None

    def seconds(self) -> float:
        """The time of one step."""
        self.prepare()
        begin = time.perf_counter()
        self.step()
        return time.perf_counter() - begin


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a step would be counted as part of it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def best_of_rounds(methods: Sequence[Method], rounds: int, budget: float) -> tuple[dict[str, float], int]:
    """The best time of each method in seconds, and in how many rounds.

    Args:
        methods: already warm.
        rounds: how many rounds at the most.
        budget: seconds after which no further round begins, once there are enough. A method that takes half of it for
            one step has its one round, and leaves the others to theirs.
    """
    best: dict[str, float] = {}
    going = list(methods)
    done, begin = 0, time.perf_counter()
    with no_garbage_collection():
        while going and done < rounds and (done < LEAST_ROUNDS or time.perf_counter() - begin < budget):
            # In alternating order, so that none always finds the caches as the same neighbour left them.
            for method in going if done % 2 == 0 else reversed(going):
                best[method.name] = min(best.get(method.name, float("inf")), method.seconds())
            going = [method for method in going if best[method.name] < budget / 2]
            done += 1
    return best, done
