"""An encoder that travels."""
