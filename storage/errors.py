"""Errors of stores, and the base of every failure that a user can fix."""


class FixableError(Exception):
    """A failure that the user can fix: `problem` names the place, what was expected and what was
    got; `fix` says what to do, as an imperative without a full stop, or is empty.

    `str(error)` is `PROBLEM. Fix: FIX.`, without a second stop after `did you mean 'x'?`.
    """

    exit_code = 1

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(problem, fix)
        self.problem, self.fix = problem, fix

    def __str__(self) -> str:
        stop = "" if self.problem.endswith(("?", ".")) else "."
        return f"{self.problem}{stop} Fix: {self.fix}." if self.fix else self.problem


class StoreError(FixableError):
    """A request to a store failed, after retries. Names the URI."""

    exit_code = 3


class MissingObject(StoreError):
    """There is no object at that URI."""


class StoreUnavailable(StoreError):
    """The store is unreachable or broke off; the same request may succeed later."""


class SilentStore(StoreError):
    """The store has not answered this process once: it is unreachable, or its address is wrong.
    Only those who wait for an outage retry it."""


class WrongAnswer(StoreError):
    """The answer is not the store's: a web page, a redirect that leads nowhere, half a listing. A
    few more attempts may get the right one; waiting is not known to help."""


class NoCredentials(StoreError):
    """There are no credentials for the store on this machine."""


class ShortObject(StoreError):
    """The object ends before the requested bytes."""


class ChangedObject(StoreError):
    """The object is another than the one that the write was to replace."""


class DamagedObject(StoreError):
    """The bytes of the object do not match their checksum."""
