"""What each verb of the command does: read a config or a run folder, act, say what happened."""

from toolkit.verbs.planning import plan
from toolkit.verbs.running import cancel, retry, run
from toolkit.verbs.viewing import collect, logs, status

__all__ = ["cancel", "collect", "logs", "plan", "retry", "run", "status"]
