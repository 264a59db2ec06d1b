"""The key of a photo that a manifest names: safe whatever the address, and every key has an address."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from carscraper.manifest import MAX_KEY, clean_key, key_from_address
from tests.test_manifest import HOST, KEY

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = [
    ("/auctionimages/3483/1713553344/i0178-1.jpg", KEY),
    ("/auctionimages/a%20b/%C3%BE.jpg", "a b/þ.jpg"),
    ("/auctionimages/þ.jpg", "þ.jpg"),
    ("/auctionimages/auctionimages/a.jpg", "auctionimages/a.jpg"),
    ("/other/auctionimages/a.jpg", "other/auctionimages/a.jpg"),
    ("/auctionimagesmore/a.jpg", "auctionimagesmore/a.jpg"),
    ("/%61uctionimages/a.jpg", "a.jpg"),
    ("/a%2525.jpg", "a%25.jpg"),
    ("/a+b.jpg", "a+b.jpg"),
    ("/a.jpg#fragment", "a.jpg"),
    ("//a.jpg", "a.jpg"),
    ("/a//b%2F/c.jpg", "a/b/c.jpg"),
    ("/auctionimages//b.jpg", "b.jpg"),
    ("/a.jpg?", "a.jpg"),
    ("/a;b=1.jpg", "a;b=1.jpg"),
    ("/..a/b../...", "..a/b../..."),
]
NO_ADDRESSES = [
    *("", "a.jpg", "/a.jpg", "//example.com/a.jpg", "ftp://example.com/a.jpg", "file:///etc/passwd"),
    *("https:///a.jpg", "https://", "https:a.jpg", "https://:80/a.jpg", "https://user@/a.jpg"),
    *("https://[::1/a.jpg", "https://example.com:x/a.jpg", "https://example.com:99999/a.jpg"),
    *("https://exa\nmple.com/a.jpg", "https://example.com/a\t.jpg", "https://example.com/\x00.jpg"),
    *("https://example.com/\ud800.jpg", "https://a℀b.com/a.jpg", "data:image/png;base64,AA=="),
]
BAD_KEYS = [
    *("", "/", "/auctionimages/", "/a/", "/a/?1", "/?1", "//", "/a//"),
    *("/../a.jpg", "/a/../b.jpg", "/a/..", "/./a.jpg", "/%2e%2e/a.jpg", "/a%2F..%2Fb.jpg", "/a/%2e"),
    *("/a%00.jpg", "/a%0a.jpg", "/%7f", "/%C2%85.jpg", "/a%5Cb.jpg", "/a\\b.jpg", "/%ff.jpg", "/%ed%a0%80"),
    *(f"/{'x' * (MAX_KEY + 1)}", f"/{'%C3%BE' * (MAX_KEY // 2 + 1)}", f"/{'x' * (MAX_KEY - 5)}?1"),
]


def test_the_key_of_an_address() -> None:
    for path, made in KEYS:
        for prefix in ("auctionimages/", "auctionimages", "/auctionimages/"):
            assert key_from_address(f"https://example.com{path}", strip_prefix=prefix) == made
    for address in NO_ADDRESSES:
        assert attempt(key_from_address, address, strip_prefix="") == ("", "not a web address")
    for path in BAD_KEYS:
        made, problem = attempt(key_from_address, f"https://example.com{path}", strip_prefix="auctionimages/")
        assert (made, problem.partition(": ")[0]) == ("", "bad key"), path
    for longest in ("x" * 255, "/".join(["x" * 224] * 4) + "x", "/".join(["þ" * 112] * 4) + "x"):
        assert len(longest.encode()) in {255, MAX_KEY}
        assert clean_key(longest) == longest
        assert re.fullmatch("bad key: .* has more than [0-9]+ bytes", attempt(clean_key, f"{longest}x")[1])


def test_a_query_is_part_of_the_name() -> None:
    digest = hashlib.sha256(b"w=1&h=2").hexdigest()[:8]
    for path, made in [("a.b/c.d.jpg", f"a.b/c.d-{digest}.jpg"), ("a.b/c", f"a.b/c-{digest}")]:
        assert key_from_address(f"https://example.com/{path}?w=1&h=2", strip_prefix="") == made
    others = {
        key_from_address(f"https://example.com/a.jpg{query}", strip_prefix="")
        for query in ("", "?1", "?2", "?%31", "?1=")
    }
    assert len(others) == 5


HOSTILE = st.lists(
    st.one_of(
        st.sampled_from([".", "..", "/", "\\", "%2e", "%2F", "%5c", "%00", "%ff", "?", "#", "\n", "\x85", "\ud800"]),
        st.sampled_from(["a", "b.jpg", "auctionimages", "þ", " ", "x" * 450, "🚗"]),
        st.text(max_size=5),
    ),
    max_size=8,
).map("".join)


def assert_safe(made: str) -> None:
    assert 0 < len(made.encode()) <= MAX_KEY
    assert not set(made.split("/")) & {"", ".", ".."}
    assert not re.search("[\x00-\x1f\x7f-\x9f\\\\]", made)


def attempt(function: Callable[..., str], *arguments: str, **options: str) -> tuple[str, str]:
    """The result or the problem."""
    try:
        return function(*arguments, **options), ""
    except ValueError as error:
        return "", str(error)


@given(
    address=st.one_of(HOSTILE, HOSTILE.map(f"{HOST}/".__add__), HOSTILE.map("https://".__add__)),
    prefix=st.one_of(st.just("auctionimages/"), HOSTILE),
)
def test_the_key_of_any_address_is_safe(address: str, prefix: str) -> None:
    made, problem = attempt(key_from_address, address, strip_prefix=prefix)
    assert problem.partition(": ")[0] in {"", "bad key", "not a web address", "an address with a user in it"}
    if not problem:
        assert_safe(made)


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4).map("/".join))
def test_every_key_has_an_address_and_is_its_key(name: str) -> None:
    _, problem = attempt(clean_key, name)
    if not problem:
        assert key_from_address(f"{HOST}/{quote(name)}", strip_prefix="") == name
