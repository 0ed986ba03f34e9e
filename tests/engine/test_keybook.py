from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.engine.keybook import KeyBook
from bridge.engine.keys import SigningKey
from bridge.errors import BadInput


def key(version: str) -> SigningKey:
    return SigningKey.from_seed(version, version.encode().ljust(32, b"."))


A, B, C = key("a"), key("b"), key("c")


def test_a_file_with_one_key_as_other_servers_write_it_is_a_book() -> None:
    assert KeyBook.from_text(A.to_text()) == KeyBook(current=(A,))


def test_the_last_key_in_use_signs() -> None:
    text = f"# ours\n{A.to_text()}\n\n  {B.to_text()}\n"
    assert KeyBook.from_text(text).signing == B


def test_a_retired_key_counts_until_it_expired_and_its_private_half_is_gone() -> None:
    book = KeyBook(current=(A,)).with_new(B).with_others_retired(at_ms=1000)
    assert A.to_text().split()[2] not in book.to_text()
    book = KeyBook.from_text(book.to_text())
    assert book.current == (B,)
    assert book.find(A.key_id, 1000) == A.verify_key_base64
    assert book.find(A.key_id, 1001) is None
    assert book.find(B.key_id, 2**50) == B.verify_key_base64
    assert book.find(C.key_id, 0) is None


@given(st.lists(st.integers(min_value=0, max_value=2**53), max_size=5))
def test_a_book_is_read_as_it_was_written(times: list[int]) -> None:
    book = KeyBook(current=(A,))
    for number, at_ms in enumerate(times):
        book = book.with_new(key(f"k{number}"))
        assert KeyBook.from_text(book.to_text()) == book
        book = book.with_others_retired(at_ms=at_ms)
        assert KeyBook.from_text(book.to_text()) == book
    assert len(book.key_ids()) == len(times) + 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing",
        "ed25519 a",
        "rsa a AAAA",
        "ed25519 a AAAA",
        f"old ed25519 a {A.verify_key_base64} 5",
        f"{A.to_text()}\nold ed25519 a {A.verify_key_base64} 5",
        f"{A.to_text()}\n{A.to_text()}",
        f"{A.to_text()}\nold ed25519 b {A.verify_key_base64}",
        f"{A.to_text()}\nold ed25519 b {A.verify_key_base64} then",
        f"{A.to_text()}\nold ed25519 b AAAA 5",
        "\n".join(key(f"k{number}").to_text() for number in range(101)),
    ],
)
def test_what_is_no_key_file_is_refused_without_showing_a_secret(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        KeyBook.from_text(text)
    assert A.to_text().split()[2] not in caught.value.reason


def test_a_version_is_never_used_twice() -> None:
    book = KeyBook(current=(A,)).with_new(B).with_others_retired(at_ms=1)
    with pytest.raises(BadInput):
        book.with_new(A)
