"""The commands, one a file, which is named as the command is typed."""
