"""What can go wrong in front of the services, in one shape: what, and what to do next."""

from typing import Final

INPUT_CODES: Final = frozenset(
    {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE"}
)
"""Codes that blame what was asked for, not the system: the command line ends with 2 for them."""


class SwellError(Exception):
    """A request was not carried out.

    `code` is a gRPC status name, such as NOT_FOUND; `reason` a stable UPPER_SNAKE name of the error; `message` says
    what happened, `where` which file, run or address it is about (may be empty), `remedy` what to do next.
    """

    def __init__(self, code: str, reason: str, message: str, remedy: str = "", where: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.remedy = remedy
        self.where = where

    @property
    def is_input(self) -> bool:
        """Whether the caller's input is to blame."""
        return self.code in INPUT_CODES

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text.rstrip('.')}. {self.remedy}" if self.remedy else text


def invalid(reason: str, message: str, remedy: str, where: str = "") -> SwellError:
    """The error for input that cannot be used."""
    return SwellError("INVALID_ARGUMENT", reason, message, remedy, where)
