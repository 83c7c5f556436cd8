"""Why a model can't be served; raised while the application starts, never for a request."""


class ModelError(Exception):
    """The model that the settings name can't be served; the message says the way out."""


class NoSuchModelError(ModelError):
    """There is no champion, or no model directory."""


class UnservableModelError(ModelError):
    """The model's files are not what this service agrees to load."""
