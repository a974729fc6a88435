"""A run: what it is (`spec`, `settings`), its clock (`machine`, `timing`), what it left (`result`, `table`)."""
