"""What the web apps share: origin guard, passwords, upload limits, frames as pictures."""
