"""Parts that several web apps use: origin guard, passwords, upload limits, frames as pictures."""
