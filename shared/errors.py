"""Every error that MMSC raises on purpose.

```
MmscError
├── InvalidInputError      the caller sent something unusable; `field` names it
│   └── BudgetTooSmallError  the budget cannot hold even the stream header
├── NotFoundError          what the caller asked for is unknown or forgotten
├── PacketError            bytes from the channel that are no packet of ours (dropped, counted)
├── StreamError            a transmission that cannot be decoded (header lost, forged or foreign)
├── WeightsError           a weights file that is absent, foreign or damaged
├── UnauthenticatedError   the caller did not prove that it may call
├── BusyError              more than a limit allows; worth another try later
├── StoreError             the disk refuses what should outlive a restart
├── UnavailableError       a service on the path does not answer
└── DeadlineError          the deadline passed before the work was done
```

The services turn each into one gRPC status (`shared.rpc_errors`), the command line into one line and exit
code 2.
"""

from typing import Self


class MmscError(Exception):
    """Root of the tree: anything that MMSC raises on purpose."""


class InvalidInputError(MmscError):
    """The caller sent something unusable.

    Args:
        field: name of the request field, as in the .proto file.
        description: what is wrong with it, in words for a person.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        """So that it crosses from one process to another whole."""
        return type(self), (self.field, self.description)


class BudgetTooSmallError(InvalidInputError):
    """The budget cannot hold the stream header, so that nothing at all could be shown."""


class NotFoundError(MmscError):
    """What the caller asked for is unknown, or was forgotten since."""


class PacketError(MmscError):
    """Bytes from the channel that are not an intact packet."""


class StreamError(MmscError):
    """A transmission that cannot be decoded: its header is lost, forged, or of another codec or weights."""


class WeightsError(MmscError):
    """A weights file that is absent, of another kind, or damaged."""


class UnauthenticatedError(MmscError):
    """The caller brought no token, or one that is not known."""


class BusyError(MmscError):
    """The call would exceed a limit at this moment; the same call may succeed later.

    Args:
        message: which limit, in words for a person.
        retry_s: seconds after which another try makes sense, above 0.
    """

    def __init__(self, message: str, retry_s: float) -> None:
        super().__init__(message)
        self.retry_s = retry_s

    def __reduce__(self) -> tuple[type[Self], tuple[str, float]]:
        """So that it crosses from one process to another whole."""
        return type(self), (str(self), self.retry_s)


class StoreError(MmscError):
    """Something could not be written to the disk, or read from it.

    Args:
        message: for a person.
        outcome: "full" where there is no room for it, "io" for anything else.
    """

    def __init__(self, message: str, outcome: str) -> None:
        super().__init__(message)
        self.outcome = outcome

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        """So that it crosses from one process to another whole."""
        return type(self), (str(self), self.outcome)


class UnavailableError(MmscError):
    """A service on the path does not answer."""


class DeadlineError(MmscError):
    """The deadline passed before the work was done."""
