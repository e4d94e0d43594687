"""Where images come from: one SPEC, one protocol, random access everywhere."""
