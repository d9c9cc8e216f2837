"""Instructions in words: one file for each thing that a user can ask of a conversation with several talkers."""
