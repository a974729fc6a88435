"""The stored study as tables, and how each claim came out."""
