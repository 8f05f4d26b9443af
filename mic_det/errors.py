"""What all errors that a user can mend have in common."""

from collections.abc import Callable

# What a check of settings calls: with whether something holds, and the message if not.
Require = Callable[[bool, str], None]


class UserError(Exception):
    """The message says what is wrong and what to do; command lines show it without a traceback."""


class DivergedError(UserError, RuntimeError):
    """A run that has gone wrong in its numbers; the message says what to try."""


class ConfigError(UserError, ValueError):
    """A configuration that cannot be meant; the message says which key and what to do."""
