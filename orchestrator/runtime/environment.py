"""Environment variables that hold for a while."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def in_the_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Within it this process, and what it starts, has `variables`; after it all is as it was.

    >>> with in_the_environment({"EKD_EXAMPLE": "1"}):
    ...     os.environ["EKD_EXAMPLE"]
    '1'
    >>> "EKD_EXAMPLE" in os.environ
    False
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
