"""The rest of a refused body: told once, whole or not at all, and no more is held than there is room for."""

from hypothesis import given
from hypothesis import strategies as st

from webhookd.http1_rest import Rest, Room


@given(
    senders=st.lists(st.tuples(st.lists(st.binary(max_size=20), max_size=5), st.booleans()), max_size=6),
    room=st.integers(0, 100),
    most=st.integers(0, 50),
)
def test_each_is_told_once_and_gives_its_room_back(senders, room, most):
    shared = Room(room)
    told = [[] for _ in senders]
    rests = [Rest(shared, most, one.append) for one in told]
    held = dict.fromkeys(range(len(senders)), 0)
    whole = [True] * len(senders)
    for turn in range(5):
        for number, (pieces, _) in enumerate(senders):
            if turn >= len(pieces):
                continue
            piece = pieces[turn]
            rests[number].part(piece)
            if whole[number]:
                whole[number] = held[number] + len(piece) <= most and len(piece) <= room - sum(held.values())
                held[number] = held[number] + len(piece) if whole[number] else 0
            assert shared.left == room - sum(held.values())
    for number, (pieces, ends) in enumerate(senders):
        rests[number].end() if ends else rests[number].closed()
        assert told[number] == [b"".join(pieces) if ends and whole[number] else None]
    assert shared.left == room
