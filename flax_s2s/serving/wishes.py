"""What a client may ask of a model, and what a model can give.

Enters: the fields of a request, checked for their kinds. Leaves: a `Wish`, or why there is none.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from flax_s2s.decoding.requests import Request


class WishError(Exception):
    """A wish that is not met: the status of HTTP, and why, in a sentence."""

    def __init__(self, status: int, why: str, retry_after: int = 0) -> None:
        super().__init__(why)
        self.status, self.retry_after = status, retry_after


class Wish(NamedTuple):
    """A sentence, and what is to be said of its translation besides the text."""

    request: Request
    id: Any = None  # given back as it is
    n_best: int = 1
    attention: bool = False
    alternatives: int = 0  # tokens at each place; 0: none
    beam: bool = False  # the live hypotheses after each step

    @property
    def constrained(self) -> bool:
        """Whether it says what the translation must be like."""
        return bool(self.request.prefix or self.request.include or self.request.exclude)

    @property
    def plain(self) -> bool:
        """Whether the best text is all that is wanted."""
        return not (self.n_best > 1 or self.attention or self.beam or self.constrained)


class About(NamedTuple):
    """What is said of a model to who wants to use it."""

    name: str
    step: int  # of its checkpoint; 0: not known
    languages: tuple[str, str]  # of source and target, as clients call them
    holds: tuple[str, ...]  # what may be asked for, by its name in a request
    features: bool  # whether it must be told features
    calibrated: bool  # whether the probabilities of tokens are at a temperature that was fitted
    source_tokens: int  # the longest source
    n_best: int  # the most translations of one


class Engine(Protocol):
    """A model that translates some sentences at a time; used by one thread."""

    about: About

    def warm_up(self) -> None:
        """Makes all programs ready that it will ever use."""

    def read(self, wishes: Sequence[Wish]) -> list[Any]:
        """Wishes as they are put in, all of them found good.

        Raises:
            WishError: one cannot be met, and why.
        """

    def put(self, ticket: int, ready: Any) -> None:
        """Takes in what `read` made of a wish, by a name that no other has."""

    def withdraw(self, ticket: int) -> None:
        """Drops a wish, as far as nothing has been made of it."""

    def reset(self) -> None:
        """Forgets all wishes, and what may have been spoilt by an error."""

    def turn(self) -> list[tuple[int, dict[str, Any]]]:
        """Works for a moment, so that others may come in between; the answers that are complete now, each an object as `decode --form jsonl` gives it."""

    @property
    def busy(self) -> bool:
        """Whether some wish is not answered."""
