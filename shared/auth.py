"""Bearer tokens: which ones a service accepts, and which one a caller brings.

A token file holds one token a line, and behind it, if wanted, the name of whoever has it:

```
# who may call this service
kq0c8Zr1mJx7...   camera-3
Vt5yN2pQe9aB...   backup job
```

The same file serves a caller, which brings the first token in it.
"""

import hashlib
import hmac
import re
from pathlib import Path
from typing import Final, NamedTuple

from shared.errors import InvalidInputError, UnauthenticatedError

MIN_TOKEN_CHARACTERS: Final = 16
"""Shorter tokens are refused: they could be guessed."""

AUTHORIZATION: Final = "authorization"
"""The metadata key of a token, as in HTTP."""

_SCHEME: Final = "bearer"
# The characters of RFC 6750; none of them needs quoting in a header.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class NamedToken(NamedTuple):
    """A line of a token file."""

    token: str
    name: str
    """For limits and messages; `token N` for the N-th token where the file gives none."""


def parse_tokens(text: str, field: str) -> list[NamedToken]:
    """Reads a token file's content.

    Args:
        text: lines of TOKEN or TOKEN NAME; empty lines and those that begin with # are left out.
        field: what an error names.

    Returns:
        The tokens in their order, at least one.

    Raises:
        InvalidInputError: there is none, or one is too short or has a strange character. The message tells the
            line's number, never its content.
    """
    found: list[NamedToken] = []
    for number, line in enumerate(text.splitlines(), 1):
        token, _, name = line.strip().partition(" ")
        if not token or token.startswith("#"):
            continue
        if len(token) < MIN_TOKEN_CHARACTERS:
            raise InvalidInputError(field, f"line {number}: a token has at least {MIN_TOKEN_CHARACTERS} characters")
        if not _TOKEN.fullmatch(token):
            raise InvalidInputError(field, f"line {number}: a token has letters, digits and . _ ~ + / - alone")
        found.append(NamedToken(token, name.strip() or f"token {len(found) + 1}"))
    if not found:
        raise InvalidInputError(field, "holds no token")
    return found


def read_tokens(path: Path, field: str) -> list[NamedToken]:
    """Reads a token file; see `parse_tokens`.

    Raises:
        InvalidInputError: it cannot be read, or is none.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text"
        raise InvalidInputError(field, f"cannot read {path}: {reason}") from error
    return parse_tokens(text, field)


def bearer(token: str) -> tuple[str, str]:
    """The metadata entry that carries a token."""
    return AUTHORIZATION, f"Bearer {token}"


class TokenCheck:
    """Tells who a caller is by its token.

    Only hashes are kept, and every one is compared in constant time, so that neither the time of an answer nor a
    dump of the memory helps to find a token.

    Args:
        tokens: the ones that are accepted.
    """

    def __init__(self, tokens: list[NamedToken]) -> None:
        self._known = [(_digest(each.token), each.name) for each in tokens]

    def name_of(self, authorization: str | None) -> str:
        """The name behind a caller's token.

        Args:
            authorization: the metadata entry's value, or None where the call has none.

        Raises:
            UnauthenticatedError: there is no token, or it is not known.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != _SCHEME or not token:
            raise UnauthenticatedError("this service wants a token")
        given = _digest(token.strip())
        # All are compared, also after a match: how long it takes tells nothing.
        names = [name for known, name in self._known if hmac.compare_digest(known, given)]
        if not names:
            raise UnauthenticatedError("the token is not one of this service's")
        return names[0]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
