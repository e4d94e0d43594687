"""The engine: loop, schedule, optimiser, checkpoint, metrics log, verdict; it knows no method by name."""
