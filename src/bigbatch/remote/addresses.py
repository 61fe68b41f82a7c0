"""What is an address, how it is shown, and how it is filed. A query string may be a signature: nobody sees it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from bigbatch.errors import DataError, Problem

SCHEMES = ("https", "http", "s3", "gs", "hf")
_ADDRESS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRETS = re.compile(
    r"^(x-amz-|x-goog-|x-oss-|awsaccesskeyid|googleaccessid|signature|sig|se|sp|sv|sr|st|spr|skoid|sktid|skt|ske|sks|skv|"
    r"expires|key-pair-id|policy|token|access_token|auth|authorization|api_?key|key|password|secret)",
    re.I,
)
"""Parts of a query that sign an address or let somebody in; they change while the file stays the same."""


@dataclass(frozen=True)
class Address:
    """A file elsewhere."""

    full: str
    """As typed, secrets included; for whoever fetches it alone."""
    scheme: str
    host: str
    path: str
    """Without a leading slash, percent-encoded as typed."""

    @property
    def shown(self) -> str:
        """Without user, password, query and fragment: for people, records and files."""
        return shown(self.full)

    @property
    def name(self) -> str:
        """The file's, as far as it is safe as one of ours."""
        return file_name(self.path)

    @property
    def key(self) -> str:
        """Under which it is filed: a hash of what names the file, and of nothing that signs the address."""
        return hashlib.sha256(unsigned(self.full).encode("utf-8", "surrogatepass")).hexdigest()[:40]


INDEX = "bigbatch-tokens.json"
"""Name of the index of published tokens: a path or address that ends in it is streamed."""


def is_index(text: str) -> bool:
    """Whether a path or address as typed is the index of published tokens."""
    return re.split(r"[?#]", text, maxsplit=1)[0].replace("\\", "/").rpartition("/")[2] == INDEX


def is_address(text: object) -> bool:
    """Whether a path as typed is an address: it begins with `scheme://`."""
    return isinstance(text, str) and _ADDRESS.match(text) is not None


def address_of(text: str) -> Address:
    """An address, taken apart.

    Raises:
        DataError: a scheme that is not read, or no host or file in it.
    """
    scheme = text.partition("://")[0].lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise refused(text, f"{scheme}:// is not read; expected one of {known}, or a path")
    try:
        parts = urlsplit(text)
        host = parts.netloc.rpartition("@")[2]
        _ = parts.port
    except ValueError as error:
        raise refused(text, f"no such address can be: {error}") from None
    path = parts.path.lstrip("/")
    if not host or not path or any(ord(sign) < 33 or ord(sign) == 127 for sign in text):
        raise refused(text, f"expected {scheme}://host/file, without blanks (a blank is %20)")
    return Address(full=text, scheme=scheme, host=host, path=path)


def shown(text: str) -> str:
    """An address without what may be a secret; any other text as it is."""
    if not is_address(text):
        return text
    scheme, _, rest = text.partition("://")
    head, slash, tail = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{head.rpartition('@')[2]}{slash}{tail}"


def unsigned(text: str) -> str:
    """An address without user, password, and those parts of its query that are known to sign it; else as `shown`."""
    query = urlsplit(text).query if is_address(text) else ""
    kept = sorted(pair for pair in parse_qsl(query, keep_blank_values=True) if not _SECRETS.match(pair[0]))
    return f"{shown(text)}?{urlencode(kept)}" if kept else shown(text)


def file_name(path: str) -> str:
    """The last part of a path as a plain name of ours."""
    last = unquote(PurePosixPath(path).name)
    return re.sub(r"[^A-Za-z0-9._-]", "_", last).strip(".")[-100:] or "file"


def quoted(text: str) -> str:
    """Letters that no address may hold, percent-encoded; what is encoded stays."""
    return quote(text, safe="%/:?#[]@!$&'()*+,;=~-._")


def refused(text: str, what: str) -> DataError:
    """Why an address cannot be read."""
    return DataError([Problem(where=shown(text), what=what)])
