"""What a person meets: the question on the command line, the chat page, and the process that keeps serving it."""
