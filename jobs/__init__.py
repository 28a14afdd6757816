"""One file per kind of task: the only place where the science meets the cluster."""
