"""The whole Spec, words of the command line, machine, files, weights."""
