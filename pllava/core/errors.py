"""The one exception a user is meant to read: what is wrong, where, what was found, and the next command. No message holds a password."""

import os
import re
import sys
import traceback
from types import TracebackType

# A password runs to the last @ of its word: users write / and @ without escapes. In http addresses, a user without a password is a token.
IN_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)\S*(?=@)|(\bhttps?://)[^\s/@]+(?=@)", re.IGNORECASE)
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[^/:@]*:(.*)@", re.IGNORECASE | re.DOTALL)
IN_QUERY = re.compile(
    r"((?:\b|_)(?:password|passwd|pwd|secret|token|api_?key|access_key|signature)=)(?:'[^']*'|\"[^\"]*\"|[^\s&;'\"]+)", re.IGNORECASE
)


class PllavaError(Exception):
    """A problem the user can mend. The CLI prints its message, without passwords and a traceback, and exits with code 1."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(without_passwords(argument) if isinstance(argument, str) else argument for argument in arguments))


def without_passwords(text: str) -> str:
    """`text` with *** for the passwords in addresses, such as postgresql://user:password@host, and in their settings (password=...)."""
    for value in os.environ.values():  # a password with spaces is no word: it is known from the variable that holds the address
        if (address := ADDRESS.match(value)) and address[1]:
            text = text.replace(f":{address[1]}@", ":***@")
    text = IN_ADDRESS.sub(lambda match: f"{match[1] or match[2]}***", text)
    return IN_QUERY.sub(r"\1***", text)


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback without passwords; for sys.excepthook."""
    sys.stderr.write(without_passwords("".join(traceback.format_exception(kind, error, trace))))
