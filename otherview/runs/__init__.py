"""The life of a run: config, build, ranks that agree, training, saving, exporting; and studies of several runs."""
