"""The ground: errors, params, files, hashes, processes, git worktrees. Imports nothing of the other rooms."""
