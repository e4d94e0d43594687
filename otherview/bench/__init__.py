"""What is fast, and the naive twins it is measured against."""
