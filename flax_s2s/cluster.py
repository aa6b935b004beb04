"""Where this process stands among those of its job (a stand-in until the real one is merged)."""

import dataclasses
from collections.abc import Mapping

from flax_s2s.config import UserError


@dataclasses.dataclass(frozen=True)
class Place:
    """Stand-in."""

    name: str
    coordinator: str
    count: int
    index: int
    connect_secs: float


def find(environment: Mapping[str, str]) -> Place:
    """Stand-in."""
    address = environment.get("JAX_COORDINATOR_ADDRESS")
    if not address:
        return Place("alone", "", 1, 0, 0.0)
    count, index = environment.get("JAX_NUM_PROCESSES", ""), environment.get("JAX_PROCESS_ID", "")
    if not (count.isdigit() and index.isdigit()):
        raise UserError(
            f"JAX_COORDINATOR_ADDRESS={address} needs the numbers JAX_NUM_PROCESSES and JAX_PROCESS_ID, got {count!r} and {index!r}"
        )
    return Place("environment", address, int(count), int(index), float(environment.get("FLAX_S2S_CONNECT_SECS", 30)))


def bind_address(place: Place) -> str:
    """Stand-in."""
    return place.coordinator


def make_sure_reachable(place: Place) -> None:
    """Stand-in."""
