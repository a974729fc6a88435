"""One run from its Spec to its file, and many runs."""
