"""The command line: flags in, one library call, the result in words. Nothing else."""
