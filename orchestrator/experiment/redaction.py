"""Text from outside as it may be shown: without credentials, and without what a terminal obeys."""

import re
from urllib.parse import unquote

_SCHEME = re.compile(r"(?<![\w+.-])([\w+.-]*)://(?!/)")
_USER = re.compile(r"""['"(<]?(?:\w+=)?[\w.%+-]+""")
_HOST = re.compile(r"(?!sha256:)(?:\w[\w-]*\.[\w.-]+|localhost|\w[\w-]*:\d+)(?!\w)")
_DATABASE = re.compile(r"(?:sqlite|postgresql|mysql|mssql)(?:\+\w+)?", re.IGNORECASE)
_USER_ALONE = re.compile(r"[\w.-]+")
_NAME = re.compile(r"""(?<![\w.%-])([\w.%-]+)(?:=['"]?|['"]\s*:\s*['"])(?=[^&\s'"])""")
_IN_HEADER = re.compile(
    r"\b(Bearer|Authorization:\s*\w+|x-[\w-]*(?:key|token):|passw\w*:)\s+[\w.~+/=-]{4,}", re.IGNORECASE
)
_COOKIE = re.compile(r"\b((?:set-)?cookie:)[^\n]+", re.IGNORECASE)
_SECRET = re.compile(
    r"passw|passphrase|secret|token|api[_-]?key|(access|account)[_-]?key|credential|signature|authorization"
    r"|(private|subscription)[_-]?key|jwt|odbc_connect|^x-amz-|^(pass|pwd|pw|sig|sas|auth)$",
    re.IGNORECASE,
)
_VALUE = re.compile(r"[^&\s'\"]+")
_OBEYED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls but for tab and newline: escape sequences begin with one
    r"\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # of the direction of writing: text would read otherwise
    r"\ud800-\udfff]"
)


def redacted(text: str) -> str:
    """`text` (a URI, or a message that may quote some) without credentials.

    User information goes up to the last `@`, because a password may hold `/` and `@`; so do the values
    of parameters whose names say that they are secret. A database's user without a password stays: of a
    server's it could be a token.

    >>> redacted("cannot reach https://ann:s3/cr@et@mlflow.example.org/x?api_key=1&a=2")
    'cannot reach https://***@mlflow.example.org/x?api_key=***&a=2'
    """
    return _COOKIE.sub(r"\1 ***", _IN_HEADER.sub(r"\1 ***", _without_parameters(without_user_info(text))))


def without_user_info(text: str) -> str:
    """`text` with every URI's user information taken out, and its parameters left as they are."""
    return re.sub(r"\S+", lambda word: _without_user(word[0]), text)


def _without_user(word: str) -> str:
    at = word.rfind("@")
    for scheme in _SCHEME.finditer(word, 0, max(at, 0)):
        start = scheme.end()
        slash = word.find("/", start, at)
        # Of a key that holds an `@` only the part before the first slash could be a user and a secret.
        named = scheme[1].lower() in ("s3", "file") and slash >= 0 and ":" not in word[start:slash]
        database = _DATABASE.fullmatch(scheme[1]) and _USER_ALONE.fullmatch(word, start, at)
        if not named and not database:
            return f"{word[:start]}***{word[at:]}"
    user, colon, rest = word[: max(at, 0)].partition(":")
    # As a proxy's variable may have it; the host of a name of something else has no dot and no port.
    plain = colon and not rest.startswith("/") and _USER.fullmatch(user) and _HOST.match(word, at + 1)
    return f"{user}:***{word[at:]}" if plain else word


def _without_parameters(text: str) -> str:
    kept, shown = 0, ""
    for name in _NAME.finditer(text):
        secret = _SECRET.search(unquote(name[1])) or (
            name[1].lower() in ("key", "code")
            and text[name.start() - 1 : name.start()] in ("?", "&")  # as Google's
        )
        if name.start() >= kept and secret:
            shown += f"{text[kept : name.end()]}***"
            value = _VALUE.match(text, name.end())
            kept = value.end() if value else name.end()
    return shown + text[kept:]


def visible(text: str) -> str:
    r"""`text` with control characters written out, so that a terminal shows them and does not obey them.

    >>> visible("a title: \x1b]0;owned\x07")
    'a title: \\x1b]0;owned\\x07'
    """
    return _OBEYED.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(error: object, most: int | None = None) -> str:
    """What an exception (else its class's name) or a text says, in one line, without credentials."""
    text = redacted(" ".join(str(error).split()))[:most]
    return text or (type(error).__name__ if isinstance(error, BaseException) else "")
