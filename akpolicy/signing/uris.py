"""Reading signer URIs: scheme, percent-encoding, parameters.

Rules:

- A scheme is lower-case. Between it and `?` stands what names the key; after `?`, `name=value` pairs joined by `&`.
- A byte may be written `%` and two hex digits. `%` and `?` in a path must be, as `%25` and `%3F`; in a parameter's
  value `&` as well, `%26`. Everything else may stand for itself.
- What is not understood is refused, parameters above all: one that is not honoured could choose another key. A
  parameter's value is never repeated, because a misplaced secret would be one.

A URI that says nothing usable is a `SignerUnavailable`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from akpolicy.errors import SignerUnavailable
from akpolicy.strict_json import shown

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_URI_CHARS: Final = 4096

_URI = re.compile(r"([a-z][a-z0-9+.-]{0,31}):(.*)", re.DOTALL)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def looks_like_uri(text: str) -> bool:
    """Whether `text` begins with a scheme; a path that does can be written `./a:b` or `file:a:b`."""
    return _URI.fullmatch(text) is not None


def split_scheme(uri: str) -> tuple[str, str]:
    """Return scheme and rest; raise `SignerUnavailable` if there is no scheme."""
    if len(uri) > MAX_URI_CHARS:
        raise SignerUnavailable(f"a signer's URI has at most {MAX_URI_CHARS} characters, this one has {len(uri)}")
    match = _URI.fullmatch(uri)
    if match is None:
        # Not repeated: what stands in place of a URI may be the key itself.
        raise SignerUnavailable("a signer is named by URI, such as `file:<path of a PEM key>`; this is none")
    return match[1], match[2]


def split_query(rest: str, separator: str = "&", *, known: Collection[str]) -> tuple[str, dict[str, str]]:
    """Return what stands before `?`, and the parameters after it, still encoded."""
    before, question_mark, query = rest.partition("?")
    return before, parameters(query, separator, known=known) if question_mark else {}


def parameters(text: str, separator: str, *, known: Collection[str]) -> dict[str, str]:
    """Return `name=value` pairs, values still encoded; raise `SignerUnavailable` for any other name than `known`."""
    found: dict[str, str] = {}
    for part in text.split(separator):
        name, equals, value = part.partition("=")
        if name not in known:
            allowed = ", ".join(f"`{name}=`" for name in known) or "no parameter"
            raise SignerUnavailable(f"a signer's URI has a parameter that is not known here; allowed: {allowed}")
        if not equals or not value:
            raise SignerUnavailable(f"`{name}` in a signer's URI has no value; write `{name}=<value>`")
        if name in found:
            raise SignerUnavailable(f"`{name}` stands twice in a signer's URI; leave one")
        found[name] = value
    return found


def decoded_bytes(text: str, what: str) -> bytes:
    """Return the bytes of percent-encoded text; raise `SignerUnavailable` naming `what` they are."""
    if _BAD_ESCAPE.search(text):
        raise SignerUnavailable(f"{what} has a `%` without two hex digits; `%` itself is written `%25`")
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape"))


def decoded_text(text: str, what: str) -> str:
    """Return percent-encoded text in the clear; raise `SignerUnavailable` naming `what` it is."""
    try:
        clear = decoded_bytes(text, what).decode("utf-8")
    except UnicodeDecodeError:
        raise SignerUnavailable(f"{what} is not UTF-8 once `%` is resolved") from None
    if "\x00" in clear:
        raise SignerUnavailable(f"{what} has a NUL byte")
    return clear


def encoded_path(path: str) -> str:
    """Return a path as it stands in a `file:` URI."""
    encoded = path.replace("%", "%25").replace("?", "%3F")
    return f"//{encoded}" if encoded.startswith("//") else encoded


def file_path(text: str, what: str) -> str:
    """Return the path of `file:` and what follows it: `/path`, `///path`, or relative to the working directory."""
    if text.startswith("//"):
        host, slash, path = text[2:].partition("/")
        if host or not slash:
            raise SignerUnavailable(f"{what} names the machine `{shown(host)}`; write `file:/<path on this machine>`")
        text = slash + path
    path = decoded_text(text, what)
    if not path:
        raise SignerUnavailable(f"{what} has no path; write `file:<path>`")
    return path
