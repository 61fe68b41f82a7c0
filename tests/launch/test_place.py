"""What the environment says of where a process stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from bigbatch.errors import UsageError
from bigbatch.launch.place import note_of_torchrun, place_of

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "x",
}
OURS = {**TORCHRUN, "BIGBATCH_MEETING": "/launch/ranks-1.file"}


def test_where_ranks_meet_is_what_our_agent_said():
    place, ours = place_of(TORCHRUN), place_of(OURS)
    assert place is not None and (place.rank, place.size, place.meeting) == (1, 2, None)
    assert ours is not None and ours.meeting == Path("/launch/ranks-1.file")


def test_only_a_torchrun_of_the_users_own_is_noted():
    assert "can run code as you" in str(note_of_torchrun(TORCHRUN))
    assert note_of_torchrun(OURS) is None and note_of_torchrun({}) is None


def test_half_a_place_is_a_users_mistake():
    with pytest.raises(UsageError, match="MASTER_PORT"):
        place_of({name: value for name, value in TORCHRUN.items() if name != "MASTER_PORT"})
