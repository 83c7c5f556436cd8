"""Why the launcher stops; each message is one line and says the way out."""


class LaunchError(Exception):
    """The system can't be started, or has ended by itself."""

    exit_code = 1


class SettingError(LaunchError):
    """A setting, a port or a tool stands in the way; nothing was started."""

    exit_code = 2


class UnreachableError(LaunchError):
    """Nothing answers where the launcher was told to look."""

    exit_code = 4
