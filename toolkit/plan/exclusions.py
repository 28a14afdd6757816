"""What a config leaves out, and which of its rules leave out nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase

from toolkit.config import SweepConfig
from toolkit.yaml_source import Source

_N_NAMED = 3


class Exclusions:
    """The exclude rules of a config, and all that they were asked about.

    Parameters
    ----------
    config
        The config.
    """

    def __init__(self, config: SweepConfig) -> None:
        self._rules = config.exclude
        self._used: set[int] = set()
        self._values: dict[str, dict[str, None]] = {}

    def leave_out(self, values: Mapping[str, str]) -> bool:
        """Whether a combination is left out; it is remembered.

        Parameters
        ----------
        values
            For each field of a rule, what it is here.
        """
        fitting = {i for i, rule in enumerate(self._rules) if rule.matches(values)}
        self._used |= fitting
        for field, value in values.items():
            self._values.setdefault(field, {})[value] = None
        return bool(fitting)

    def idle_rules(self, source: Source) -> Iterator[str]:
        """Of each rule that fitted nothing so far: where it stands, and what to look at."""
        for i, rule in enumerate(self._rules):
            if i not in self._used:
                fields = rule.model_dump(exclude_none=True)
                wrong = [text for field in fields if (text := self._what_is_wrong(i, field))]
                why = "; ".join(wrong) or "no combination fits all its fields"
                yield source.problem(("exclude", i), f"the rule leaves nothing out: {why}")

    def _what_is_wrong(self, i: int, field: str) -> str:
        """Empty where a value of the field would fit by itself."""
        pattern = getattr(self._rules[i], field)
        known = [value for value in self._values[field] if value]
        if any(fnmatchcase(value, pattern) for value in known):
            return ""
        near = ", ".join(
            get_close_matches(pattern, known, _N_NAMED, cutoff=0.5) or known[:_N_NAMED]
        )
        return f"no {field} is {pattern!r}" + (f", nearest: {near}" if near else "")
