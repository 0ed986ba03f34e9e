from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from bridge.engine.keybook import KeyBook
from bridge.engine.keys import SigningKey, verify
from bridge.engine.signing import check_json_signature
from bridge.errors import Refused, Unavailable
from bridge.federation.own_keys import KeyFile, OwnKeys
from bridge.federation.server.keys import Keys
from bridge.ids import ServerName
from bridge.web.routing import Request
from tests.support.clock import FakeClock
from tests.support.openapi import complaints

US = ServerName("us.example")
FIRST = SigningKey.from_seed("a", bytes(32))


class Breaking(KeyFile):
    """Fails at the given replacement of the file, before or after it is in place."""

    def __init__(self, path: Path, *, at: int, after: bool) -> None:
        super().__init__(path)
        self._left, self._after = at, after

    def replace(self, book: KeyBook) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise OSError(28, "No space left on device")
        super().replace(book)
        if self._left == 0:
            raise OSError(5, "Input/output error")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "signing.key"
    path.write_text(FIRST.to_text())
    return path


def keys_of(keeper: KeyFile, clock: FakeClock, seed: int = 1) -> OwnKeys:
    return OwnKeys(keeper.read(), keeper=keeper, clock=clock, random=Random(seed))


async def document(keys: OwnKeys, clock: FakeClock) -> dict[str, Any]:
    endpoint = Keys(own_name=US, keys=keys, clock=clock)
    answer = await endpoint.own(Request(method="GET", target="/_matrix/key/v2/server"))
    assert complaints("GET", "/_matrix/key/v2/server", 200, answer.json) == []
    found: dict[str, Any] = answer.json
    return found


async def test_after_a_rotation_the_new_key_signs_and_the_old_one_is_published_as_old(
    path: Path,
) -> None:
    clock = FakeClock()
    keys = keys_of(KeyFile(path), clock)
    clock.shift(60)
    new = await keys.rotate()
    assert new != FIRST.key_id
    assert keys.key_id == new
    assert verify(keys.verify_key_base64, b"x", keys.sign(b"x"))
    published = await document(keys, clock)
    assert published["verify_keys"] == {new: {"key": keys.verify_key_base64}}
    assert published["old_verify_keys"] == {
        FIRST.key_id: {"key": FIRST.verify_key_base64, "expired_ts": clock.now_ms()}
    }
    assert keys.find(FIRST.key_id, clock.now_ms()) == FIRST.verify_key_base64
    assert keys.find(FIRST.key_id, clock.now_ms() + 1) is None


async def test_a_restart_after_rotations_goes_on_with_the_same_keys(path: Path) -> None:
    clock = FakeClock()
    keys = keys_of(KeyFile(path), clock)
    await keys.rotate()
    clock.shift(60)
    await keys.rotate()
    again = keys_of(KeyFile(path), clock)
    assert await document(again, clock) == await document(keys, clock)
    assert len(again.retired()) == 2
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["signing.key"]


async def test_several_keys_in_use_all_sign_what_we_publish(path: Path) -> None:
    second = SigningKey.from_seed("b", bytes([1] * 32))
    path.write_text(f"{FIRST.to_text()}\n{second.to_text()}\n")
    clock = FakeClock()
    keys = keys_of(KeyFile(path), clock)
    published = await document(keys, clock)
    for key in (FIRST, second):
        assert check_json_signature(
            published, server=US, key_id=key.key_id, verify_key=key.verify_key_base64
        )
    await keys.rotate()
    assert {key_id for key_id, _ in keys.retired()} == {FIRST.key_id, second.key_id}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2])
async def test_a_rotation_that_is_cut_off_loses_no_key_and_signs_with_a_published_one(
    path: Path, at: int, after: bool
) -> None:
    clock = FakeClock()
    keys = keys_of(Breaking(path, at=at, after=after), clock)
    with pytest.raises(Unavailable):
        await keys.rotate()
    # As it runs on, and as it starts again.
    for each in (keys, keys_of(KeyFile(path), clock)):
        published = await document(each, clock)
        assert each.key_id in published["verify_keys"]
        assert each.find(FIRST.key_id, clock.now_ms()) == FIRST.verify_key_base64
        # Whatever signed in this run is known after the next start.
        assert keys_of(KeyFile(path), clock).find(each.key_id, clock.now_ms()) is not None
    again = keys_of(KeyFile(path), clock, seed=2)
    new = await again.rotate()
    assert list(again.in_use()) == [new]
    assert FIRST.key_id in {key_id for key_id, _ in again.retired()}


async def test_a_file_that_somebody_changed_is_not_overwritten(path: Path) -> None:
    keys = keys_of(KeyFile(path), FakeClock())
    other = SigningKey.from_seed("other", bytes([7] * 32)).to_text()
    path.write_text(other)
    with pytest.raises(Refused):
        await keys.rotate()
    assert path.read_text() == other
    assert keys.key_id == FIRST.key_id


async def test_a_file_that_cannot_be_replaced_leaves_everything_as_it_was(path: Path) -> None:
    keys = keys_of(Breaking(path, at=1, after=False), FakeClock())
    with pytest.raises(Unavailable, match="No space left"):
        await keys.rotate()
    assert list(keys.in_use()) == [FIRST.key_id]


async def test_a_link_to_the_file_stays_a_link(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    target = path.rename(folder / "real.key")
    path.symlink_to(target)
    keys = keys_of(KeyFile(path), FakeClock())
    new = await keys.rotate()
    assert path.is_symlink()
    assert KeyFile(target).read().signing.key_id == new
