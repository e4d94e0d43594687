"""One file, one paper: Siamese Image Modeling."""
