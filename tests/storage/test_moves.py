"""Rows of upgraded rooms: what was decided, and the way from the first room to the last."""

from __future__ import annotations

from bridge.ids import RoomId
from bridge.storage import moves
from bridge.storage.database import Database, Transaction
from bridge.storage.moves import MOVED, MOVING, REFUSED, Move

A, B, C, D = (RoomId(f"!{name}:m.example") for name in "abcd")


def move(room_id: RoomId, successor: RoomId, status: str = MOVED) -> Move:
    return Move(room_id=room_id, successor=successor, status=status, position=7, seen_ms=1)


async def test_the_way_leads_over_finished_moves_only_and_is_bounded(database: Database) -> None:
    def unit(tx: Transaction) -> None:
        for one in (move(A, B), move(B, C), move(C, D, MOVING)):
            moves.begin(tx, adapter="x", move=one)

    await database.write(unit)

    def look(tx: Transaction) -> None:
        assert moves.successors(tx, adapter="x", room_id=A, most=9) == [B, C]
        assert moves.successors(tx, adapter="x", room_id=A, most=1) == [B]
        assert moves.successors(tx, adapter="other", room_id=A, most=9) == []
        before = moves.predecessors(tx, adapter="x", room_id=C, most=9)
        assert [one.room_id for one in before] == [B, A]
        assert moves.predecessors(tx, adapter="x", room_id=D, most=9) == []
        assert [one.status for one in moves.into_room(tx, adapter="x", room_id=D)] == [MOVING]

    await database.read(look)


async def test_a_circle_has_an_end(database: Database) -> None:
    def unit(tx: Transaction) -> None:
        moves.begin(tx, adapter="x", move=move(A, B))
        moves.begin(tx, adapter="x", move=move(B, A))

    await database.write(unit)
    assert await database.read(lambda tx: moves.successors(tx, adapter="x", room_id=A, most=9)) == [
        B
    ]


async def test_what_was_decided_about_one_successor_says_nothing_of_another(
    database: Database,
) -> None:
    def unit(tx: Transaction) -> None:
        moves.begin(tx, adapter="x", move=move(A, B, MOVING))
        moves.begin(tx, adapter="x", move=move(A, C, MOVING))
        moves.finish(tx, adapter="x", room_id=A, successor=B, status=REFUSED, now_ms=2)

    await database.write(unit)
    found = await database.read(lambda tx: moves.of_room(tx, adapter="x", room_id=A))
    assert found == move(A, C, MOVING)
