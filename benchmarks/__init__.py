"""Claims about speed, each a paired ratio measured in one run."""
