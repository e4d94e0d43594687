"""The engine: loop, schedule, optimiser, checkpoint, journal, verdict; it knows no method by name."""
