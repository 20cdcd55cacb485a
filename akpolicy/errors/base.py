"""The base of all errors, and those of configuration and start."""

from __future__ import annotations


class AkpolicyError(Exception):
    """Base of every error raised on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def code(self) -> str:
        """The stable name of this error."""
        return type(self).__name__


class ConfigError(AkpolicyError):
    """A configuration that cannot be used. `problems` has one line a mistake, each with file and line number."""

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__("\n".join((message, *(f"  {p}" for p in problems))))
        self.problems = problems


class UsageError(AkpolicyError):
    """A command was asked for something impossible."""


class StartupError(AkpolicyError):
    """A program cannot start."""


class AddressInUse(StartupError):
    """A TCP address is taken."""


class SocketInUse(StartupError):
    """A Unix socket is served by a live process."""


class SocketPathTooLong(StartupError):
    """A Unix socket path does not fit into `sockaddr_un`."""


class SocketNotWritable(StartupError):
    """A Unix socket cannot be created where it should be."""


class StateDirUnusable(StartupError):
    """The state directory cannot be created or used."""


class HandoverFailed(StartupError):
    """A running sidecar does not hand over to its successor."""
