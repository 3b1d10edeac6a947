"""The commands of `pllava`, a file a topic. Nothing heavy is imported before a command runs."""
