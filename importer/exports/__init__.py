"""Images on their way out: to files, to other registries, as images of others."""
