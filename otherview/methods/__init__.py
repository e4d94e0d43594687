"""One file, one paper: Siamese Image Modeling and what it is compared with."""
