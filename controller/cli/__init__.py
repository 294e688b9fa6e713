"""The resource verbs of `dvcr`."""
