"""Errors that end a command. They are apart from what raises them, because every command knows them."""

from pathlib import Path


class StartRefused(Exception):
    """A public address is configured, and there is no administrator. `bluesminds users create` makes one."""


class NoDatabase(Exception):
    """No gateway runs, and no gateway has run with these settings before."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(f"no gateway is running and there is no database in {state_dir}")


class BadDatabaseURL(Exception):
    """The database URL is invalid. The message repeats no part of it."""


class CannotListen(Exception):
    """A listening socket cannot be opened at `where`; `cause` says why."""

    def __init__(self, where: str, cause: OSError) -> None:
        super().__init__(f"cannot listen on {where}: {cause.strerror or cause}")
        self.cause = cause


class BadCertificate(Exception):
    """The listener's TLS certificate or its private key cannot be used."""


class BackupFailed(Exception):
    """A backup cannot be written or restored. `remedy` says what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class BackupMissing(BackupFailed):
    """The file of a backup does not exist."""


class DatabaseExists(BackupFailed):
    """A restore would replace a database, and this was not requested."""
