"""The OCI core of DVCR: digests, storage, the registry and its client, the disk artifact, the command line."""
