"""What each verb of the command does: read a config or a run folder, act, say what happened."""

from toolkit.verbs.planning import plan
from toolkit.verbs.reporting import report
from toolkit.verbs.running import cancel, retry, run
from toolkit.verbs.viewing import collect, logs, status

__all__ = ["cancel", "collect", "logs", "plan", "report", "retry", "run", "status"]
