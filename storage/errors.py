"""What stores raise. Every message names the URI."""


class StoreError(Exception):
    """A store could not do what was asked, after retries. Names the URI and the cure."""

    exit_code = 3


class MissingObject(StoreError):
    """There is no object at that URI."""


class StoreUnavailable(StoreError):
    """The store did not answer or broke off; the same request may succeed later."""


class ShortObject(StoreError):
    """The object ends before the bytes that were asked for."""
