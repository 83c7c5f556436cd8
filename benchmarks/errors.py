"""Why a measurement stops; each message is one line and says the way out."""


class BenchError(Exception):
    """Something stands in the way of the measurement."""


class ServerError(BenchError):
    """One server could not be measured; the others can."""
