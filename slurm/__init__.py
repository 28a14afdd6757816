"""What concerns Slurm itself: a development cluster that boots in a folder."""
