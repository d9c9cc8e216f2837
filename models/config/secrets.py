"""Secrets in text: passwords of URLs, signatures, and the values of variables that hold keys.

What is printed, logged, recorded or handed to others goes through `masked`; errors do so themselves.
"""

import os
import re
from urllib.parse import urlsplit, urlunsplit

_PASSWORD = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.\-]*://)(?P<user>[^\s/:@\"']*):(?P<password>[^\s/\"']+)@")
_TOKEN_AS_USER = re.compile(r"(https?://)[^\s/:@\"']+@")
_PARAMETER = re.compile(
    r"((?:[?&;]|\b)(?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)|AWSAccessKeyId|"
    r"Signature|sig|token|access_token|api_key|password|passwd|secret)=)[^\s&;\"']+",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"(SECRET|PASSWORD|PASSWD|TOKEN|PRIVATE_KEY|API_KEY|ACCOUNT_KEY|STORAGE_KEY)", re.IGNORECASE)
_SHORTEST = 8
"""Characters of a variable's value that is taken for a secret: `true` and `1` are none."""

HIDDEN = "***"


def masked(text: str) -> str:
    """Return a text without its secrets.

    >>> masked("no server at http://ann:pass@word@host:80/x")
    'no server at http://ann:***@host:80/x'
    >>> masked("https://b.s3.amazonaws.com/k?X-Amz-Signature=0ab1&x=1")
    'https://b.s3.amazonaws.com/k?X-Amz-Signature=***&x=1'
    """
    if "@" in text:
        text = _PASSWORD.sub(rf"\g<scheme>\g<user>:{HIDDEN}@", text)
        text = _TOKEN_AS_USER.sub(rf"\g<1>{HIDDEN}@", text)
    if "=" in text:
        text = _PARAMETER.sub(rf"\g<1>{HIDDEN}", text)
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and value in text and _VARIABLE.search(name) and not os.path.exists(value):
            text = text.replace(value, HIDDEN)
    return text


def without_login(url: str) -> str:
    """Return a URL without user and password: the same place, whoever asks.

    >>> without_login("http://ann:pw@host:5000/x"), without_login("sqlite:////a/b.db")
    ('http://host:5000/x', 'sqlite:////a/b.db')
    """
    if "@" not in url or "://" not in url:
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def has_password(text: str) -> bool:
    """Return whether a text holds a URL with a password or a signature."""
    return any(pattern.search(text) for pattern in (_PASSWORD, _TOKEN_AS_USER, _PARAMETER))
