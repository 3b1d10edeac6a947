"""Old path of `pllava.chat.conversation`."""

from pllava.chat.conversation import *  # noqa: F403
