"""Page-table formats: what the bits of an entry mean, and nothing else."""
