"""The one error that unusable data raises."""

from pathlib import Path

from ekd_train.errors import EkdError


class DataError(EkdError, ValueError):
    """Data that cannot be used, said in one line: where, what is wrong, what to do.

    `where` is the file or folder at fault, or the settings key (`data.train_size`) when
    the data is sound but less than was asked for.

    >>> print(DataError("data/train", "is empty", "put one folder of images per class there"))
    data/train: is empty; put one folder of images per class there
    """

    def __init__(self, where: str | Path, problem: str, remedy: str) -> None:
        self.where = str(where)
        self.problem = problem
        self.remedy = remedy
        super().__init__(" ".join(f"{where}: {problem}; {remedy}".split()))

    def __reduce__(self) -> "tuple[type[DataError], tuple[str, str, str]]":
        # The default would rebuild it from the one-line message, and fail between processes.
        return type(self), (self.where, self.problem, self.remedy)
