"""Tokens: what a file may hold, and who is let in."""

import hmac

import pytest

from shared import auth
from shared.auth import NamedToken, TokenCheck, bearer, parse_tokens, read_tokens
from shared.errors import InvalidInputError, UnauthenticatedError

FIRST, SECOND = "first-token-of-16+", "second.token~of/16=="


def test_a_file_holds_tokens_with_and_without_names():
    text = f"# who may call\n\n{FIRST}\n  {SECOND}   backup job  \n"
    assert parse_tokens(text, "tokens") == [NamedToken(FIRST, "token 1"), NamedToken(SECOND, "backup job")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no token"),
        ("# nothing\n", "holds no token"),
        ("short", "line 1: a token has at least 16 characters"),
        (f"{FIRST}\nwith\ttab-and-more-of-it", "line 2: a token has letters"),
        ("ä" * 20, "line 1: a token has letters"),
    ],
)
def test_a_file_without_usable_tokens_is_refused_without_telling_its_content(text, reason):
    with pytest.raises(InvalidInputError, match=reason) as caught:
        parse_tokens(text, "tokens")
    assert caught.value.field == "tokens"
    assert not any(word in str(caught.value) for word in ("with", "ää"))


@pytest.mark.parametrize("content", [None, b"\xff\xfe" * 20])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, content):
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="cannot read"):
        read_tokens(path, "tokens")


@pytest.mark.parametrize(("token", "name"), [(FIRST, "token 1"), (SECOND, "camera")])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_known_token_has_a_name(token, name, scheme):
    check = TokenCheck([NamedToken(FIRST, "token 1"), NamedToken(SECOND, "camera")])
    assert bearer(token) == ("authorization", f"Bearer {token}")
    assert check.name_of(f"{scheme} {token}") == name


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", f"Basic {FIRST}", FIRST, f"Bearer {FIRST[:-1]}", "Bearer \udcff"]
)
def test_anything_else_is_refused(given):
    with pytest.raises(UnauthenticatedError):
        TokenCheck([NamedToken(FIRST, "")]).name_of(given)


def test_every_token_is_compared_whole_whichever_matches(monkeypatch):
    compared = []
    compare_digest = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare_digest(one, other)

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    check = TokenCheck([NamedToken(FIRST, "a"), NamedToken(SECOND, "b")])
    check.name_of(f"Bearer {FIRST}")
    with pytest.raises(UnauthenticatedError):
        check.name_of("Bearer x")
    assert compared == [(32, 32)] * 4
