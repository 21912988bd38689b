"""Text from outside as it may be shown: without credentials, and without what a terminal obeys."""

from __future__ import annotations

import re

_USER_INFO = re.compile(
    r"((?:s3|file)://)(?:[^/\s]*|[^/\s:]*:\S*)@"  # a key may hold `/`; without a colon, `@` is of a name
    r"|(?<![\w+.-])((?!s3:|file:)\w[\w+.-]*://)\S*@",
    re.IGNORECASE,
)
_PARAMETER = re.compile(
    r"((?:[\w.%-]*(?:passw|passphrase|secret|token|api_?-?key|credential|signature|accesskey|authorization)"
    r"[\w.%-]*|x-amz-[\w-]+|pwd|pass|pw|sig|auth|key)=)[^&\s'\"]+",
    re.IGNORECASE,
)
_OBEYED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls but for tab and newline: escape sequences begin with one
    r"\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # of the direction of writing: text would read otherwise
    r"\ud800-\udfff]"
)


def redacted(text: str) -> str:
    """`text` (a URI, or a message that may quote some) without credentials.

    User information goes up to the last `@`, because a password may hold `/` and `@`; so do the values
    of parameters whose names say that they are secret.

    >>> redacted("cannot reach https://ann:s3/cr@et@mlflow.example.org/x?api_key=1&a=2")
    'cannot reach https://***@mlflow.example.org/x?api_key=***&a=2'
    """
    return _PARAMETER.sub(r"\1***", _USER_INFO.sub(lambda m: f"{m[1] or m[2]}***@", text))


def visible(text: str) -> str:
    r"""`text` with control characters written out, so that a terminal shows them and does not obey them.

    >>> visible("a title: \x1b]0;owned\x07")
    'a title: \\x1b]0;owned\\x07'
    """
    return _OBEYED.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
