"""The exception tree. The class carries the decision; the text is for a person.

`BadInput` and `Refused` are final, `NotFound` is an answer, `Unavailable` is retried by
`delivery/`, `Misconfigured` stops the start. Libraries' exceptions are translated where the
library is called.
"""

from __future__ import annotations


class IsthmusError(Exception):
    """Root of everything that Isthmus raises on purpose. `errcode` is a Matrix error code."""

    errcode = "M_UNKNOWN"

    def __init__(self, reason: str, *, errcode: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        if errcode is not None:
            self.errcode = errcode


class BadInput(IsthmusError):
    """What came from outside breaks a format or a limit. Final: the same bytes never pass."""

    errcode = "M_BAD_JSON"


class Refused(IsthmusError):
    """A rule or a peer said no. Final. `rule` is a greppable word for the log."""

    errcode = "M_FORBIDDEN"

    def __init__(self, reason: str, *, errcode: str | None = None, rule: str = "") -> None:
        super().__init__(reason, errcode=errcode)
        self.rule = rule


class NotFound(IsthmusError):
    """What was asked for does not exist, as far as we may say."""

    errcode = "M_NOT_FOUND"


class Unavailable(IsthmusError):
    """Not now: a peer is down, a bound is reached. `retry_after_s` where somebody told us."""

    errcode = "M_LIMIT_EXCEEDED"

    def __init__(
        self, reason: str, *, errcode: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason, errcode=errcode)
        self.retry_after_s = retry_after_s


class Conflict(Unavailable):
    """Somebody else wrote first (a room moved on, a lease was lost): redo what depended on it."""


class Misconfigured(IsthmusError):
    """The configuration cannot work. `setting` is its dotted name, for the operator."""

    def __init__(self, setting: str, reason: str) -> None:
        super().__init__(f"{setting}: {reason}")
        self.setting = setting
