"""A recipe is a function that returns a whole typed config. Torch-free."""
