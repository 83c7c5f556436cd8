"""How much one ingress has under way; what is more is refused at once."""

from serve_app.errors import OverloadedError


class Gate:
    """Counts the requests that are predicted, and the bytes of bodies that are here.

    A body counts by what has come of it, and a request once its body is there: whoever sends
    slowly takes nobody's place. A large answer counts until its client has taken it. For use on one
    event loop.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._requests = 0
        self._bytes = 0

    @property
    def requests(self) -> int:
        """How many requests are under way."""
        return self._requests

    @property
    def content_bytes(self) -> int:
        """How many bytes are under way."""
        return self._bytes

    def check(self) -> None:
        """Raise OverloadedError if one more request would be one too many."""
        if self._requests >= self._max_requests:
            raise OverloadedError(
                f"{self._requests} requests are under way in this ingress: try again later"
            )

    def enter(self) -> None:
        """Count a request in. Raises OverloadedError if it is one too many."""
        self.check()
        self._requests += 1

    def leave(self) -> None:
        """Count it out again."""
        self._requests -= 1

    def body(self) -> "Body":
        """Return what counts a body."""
        return Body(self)

    def answer(self, size: int) -> "Body":
        """Return what counts an answer, which may have any size if nothing else is under way.

        Raises OverloadedError.
        """
        if self._bytes:
            self.take(size)
        else:
            self._bytes = size
        return Body(self, size)

    def take(self, size: int) -> None:
        """Count bytes in. Raises OverloadedError if they are too many."""
        if self._bytes + size > self._max_bytes:
            raise OverloadedError(
                f"bodies of {self._bytes} bytes are under way in this ingress: try again later"
            )
        self._bytes += size

    def give_back(self, size: int) -> None:
        """Count bytes out again."""
        self._bytes -= size


class Body:
    """What has come of one body, or is to go: a context manager, at whose end it is gone again."""

    __slots__ = ("_gate", "_size")

    def __init__(self, gate: Gate, size: int = 0) -> None:
        self._gate = gate
        self._size = size

    def grow(self, size: int) -> None:
        """Count more of it. Raises OverloadedError."""
        try:
            self._gate.take(size)
        except OverloadedError as error:
            error.headers["connection"] = "close"  # the rest of it is not read
            raise
        self._size += size

    def __enter__(self) -> "Body":
        return self

    def __exit__(self, *error: object) -> None:
        self._gate.give_back(self._size)
