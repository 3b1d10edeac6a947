"""Old import paths of public names; new code imports them from their rooms."""
