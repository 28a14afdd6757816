"""A private Slurm in a folder of this machine, for development and tests.

Controller, nodes with fake GPUs, and accounting are Slurm's own programs with a configuration of
their own: nothing of an installed Slurm is read or changed. It needs Debian's packages (or their
like) and no privileges::

    python -m slurm.devcluster run -- sinfo
"""

from slurm.devcluster.cluster import DevCluster, take_down
from slurm.devcluster.configuration import ClusterShape
from slurm.devcluster.errors import ClusterError
from slurm.devcluster.programs import missing_programs

__all__ = ["ClusterError", "ClusterShape", "DevCluster", "missing_programs", "take_down"]
