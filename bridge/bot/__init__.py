"""The bot: one table of commands with many faces."""
