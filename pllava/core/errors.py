"""The one exception a user is meant to read: what is wrong, where, what was found, and the next command."""


class PllavaError(Exception):
    """A problem the user can mend. The CLI prints its message without a traceback and exits with code 1."""
