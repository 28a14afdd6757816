"""The one exception of this room."""


class ClusterError(RuntimeError):
    """The development cluster cannot do what was asked."""

    error_class = "slurm_devcluster"
