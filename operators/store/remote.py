"""Which URLs are opened, and what the errors of object storage mean to a user."""

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from operators.errors import InputError

OBJECT_STORES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "az"), "adlfs"),
}
"""Schemes that are opened wherever they are named, and the package that each needs."""

ALLOWED_VARIABLE = "HUBBUB_ALLOW_URLS"
"""Variable that lists, by commas, the beginnings of other URLs that may be opened: `https://data.example.org/`."""


class RefusedURLError(InputError, OSError):
    """A URL that is not opened; where a row names it, the row is quarantined."""


class StorageError(OSError):
    """Object storage refused or did not answer; says where, why, and what to do."""


def check_url(url: str) -> None:
    """Check that a path or URL may be opened: a local path, an object store's, or one that HUBBUB_ALLOW_URLS begins.

    Where the variable names only a scheme, hosts of this machine and of private networks are left out: text of a
    manifest from elsewhere must not make this machine ask addresses that only it can reach.

    Raises:
        RefusedURLError: names the scheme, and the variable that would allow it.

    >>> check_url("s3://bucket/a.flac")
    """
    scheme, _, _ = url.partition("://")
    if "::" in url:
        raise RefusedURLError(f"{url}: chained URLs are not opened; name the file itself")
    if scheme in OBJECT_STORES or "://" not in url:
        return
    allowed = [one.strip() for one in os.environ.get(ALLOWED_VARIABLE, "").split(",") if one.strip()]
    for beginning in allowed:
        if beginning.endswith("://"):
            if url.startswith(beginning) and not _is_inside(url):
                return
        elif url == beginning or url.startswith(beginning.rstrip("/") + "/"):
            return
    raise RefusedURLError(
        f"{url}: URLs of scheme {scheme} are not opened unless {ALLOWED_VARIABLE} lists how they begin, as in "
        f"{ALLOWED_VARIABLE}=https://data.example.org/ (always opened: {', '.join(OBJECT_STORES)})"
    )


def _is_inside(url: str) -> bool:
    """Return whether a URL's host is this machine, or in a private network; false where a URL has no such host."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "ftp", "sftp") or not parts.hostname:
        return False
    try:
        found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(parts.hostname, None)}
    except OSError:
        return True
    return any(not ipaddress.ip_address(address).is_global for address in found)


@contextmanager
def errors_explained(url: str) -> Iterator[None]:
    """Turn what a client of object storage raises in the block into a StorageError that says what to do.

    That there is no such file, or that there is one already, is an answer and no error.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, NotADirectoryError, StorageError, RefusedURLError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and not _chain(error, "botocore", "aiohttp"):
            raise  # the local disk
        raise StorageError(f"{url}: {explained(error, url)}") from error


_CAUSES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("NoSuchBucket",), "there is no such bucket", "create it, or correct the URL"),
    (
        ("ExpiredToken", "TokenRefreshRequired", "RequestExpired", "ExpiredTokenException"),
        "the credentials have expired",
        "renew them (AWS_SESSION_TOKEN; `aws sso login`)",
    ),
    (
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthFailure"),
        "the keys are not accepted",
        "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    (("RequestTimeTooSkewed",), "this machine's clock is off", "set it"),
    (
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"),
        "the bucket is in another region",
        "set AWS_DEFAULT_REGION",
    ),
    (("QuotaExceeded", "EntityTooLarge", "507"), "there is no room", "free some, or raise the quota"),
    (
        ("AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "PermissionError"),
        "access is denied",
        "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; they need the rights to list, read and write there",
    ),
    (
        ("SlowDown", "ServiceUnavailable", "InternalError", "503", "500", "502", "504", "RequestTimeout"),
        "the server is overloaded",
        "run again later; fewer --workers ask for less at once",
    ),
    (
        ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
        "there are no keys",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile (AWS_PROFILE)",
    ),
    (("SSLError", "ClientConnectorCertificateError"), "the server's certificate is not accepted", "set AWS_CA_BUNDLE"),
    (
        ("ReadTimeoutError", "ConnectTimeoutError", "TimeoutError", "FSTimeoutError"),
        "the server does not answer in time",
        "look at AWS_ENDPOINT_URL and the network, and run again",
    ),
    (
        ("EndpointConnectionError", "ConnectionClosedError", "HTTPClientError", "ClientConnectorError", "ClientOSError",
         "ServerDisconnectedError", "ConnectionResetError", "ResponseStreamingError", "IncompleteReadError"),
        "the connection is refused or broken",
        "look at AWS_ENDPOINT_URL and the network, and run again",
    ),
)  # fmt: skip
"""Names of S3's error codes, HTTP statuses and clients' exceptions; what they mean; what to do. The first that fits."""


def explained(error: BaseException, url: str) -> str:
    """Return where an error of object storage came from, what it means, and what to do, in one line."""
    bucket, _, key = url.partition("://")[2].partition("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    where = f"bucket {bucket}{f', key {key}' if key else ''}{f' at {endpoint}' if endpoint else ''}"
    names: list[str] = []
    one: BaseException | None = error
    while one is not None:
        answer: dict[str, Any] = getattr(one, "response", None) or {}
        names += [str(answer.get("Error", {}).get("Code", "")), type(one).__name__]
        names.append(str(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", "")))
        one = one.__cause__ or one.__context__
    if isinstance(error, FileNotFoundError):
        names.append("NoSuchBucket")
    for codes, cause, advice in _CAUSES:
        if any(code in names for code in codes):
            return f"{cause} ({where}); {advice}"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{reason} ({where}); check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


def _chain(error: BaseException | None, *packages: str) -> bool:
    """Return whether an error, or one that it came from, is of one of some packages."""
    while error is not None:
        if type(error).__module__.partition(".")[0] in packages:
            return True
        error = error.__cause__ or error.__context__
    return False
