"""How much one ingress has under way: what is more is refused at once, before its body is read."""

from serve_app.errors import OverloadedError


class Gate:
    """Counts requests and the bytes of their bodies. For use on one event loop."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._requests = 0
        self._bytes = 0

    def enter(self, body_bytes: int) -> None:
        """Count a request in. Raises OverloadedError if it is one too many; one always may."""
        if self._requests >= self._max_requests or (
            self._requests and self._bytes + body_bytes > self._max_bytes
        ):
            raise OverloadedError(
                f"{self._requests} requests of {self._bytes} bytes are under way in this ingress: "
                "try again later"
            )
        self._requests += 1
        self._bytes += body_bytes

    def leave(self, body_bytes: int) -> None:
        """Count it out again."""
        self._requests -= 1
        self._bytes -= body_bytes
