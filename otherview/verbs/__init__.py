"""Verbs: one file each, a typed request in, a result out. Nothing heavy is imported until a verb runs."""
