"""Why a model can't be served; raised while the application starts, never for a request."""


class ModelError(Exception):
    """The model that the settings name can't be served; the message says the way out."""


class NoSuchModelError(ModelError):
    """There is no champion, or no model directory."""


class UnservableModelError(ModelError):
    """The model's files are not what this service agrees to load."""


class NotNowError(ModelError):
    """This node is short of something, disk or processes, for now: no fault of the model's."""


def printable(text: str) -> str:
    """Return one line that can be shown anywhere: a reason may hold what a model's files say."""
    return "".join(one if one.isprintable() else " " if one.isspace() else "?" for one in text)
