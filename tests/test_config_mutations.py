"""Whatever is wrong with a config, the command says so in few words and leaves nothing behind."""

from pathlib import Path

import pytest
from config_mutations import OWN, Mutant, answers_kept, mutants, outcome_of


@pytest.mark.parametrize("name", OWN)
def test_what_is_mutated_is_valid(name: str, tmp_path: Path) -> None:
    with answers_kept():
        outcome = outcome_of(Mutant(name, OWN[name].encode()), tmp_path)
    assert (outcome.status, outcome.faults) == (0, ())


def test_mutants_are_planned_or_refused_in_few_words(tmp_path: Path) -> None:
    statuses = set()
    with answers_kept():
        for i, mutant in enumerate(mutants(100, seed=0)):
            folder = tmp_path / str(i)
            folder.mkdir()
            outcome = outcome_of(mutant, folder)
            statuses.add(outcome.status)
            assert not outcome.faults, (mutant, outcome.said)
    assert statuses == {0, 2}


def test_refused_runs_leave_nothing_behind(tmp_path: Path) -> None:
    refused = 0
    with answers_kept():
        for i, mutant in enumerate(mutants(60, seed=1)):
            folder = tmp_path / str(i)
            folder.mkdir()
            if outcome_of(mutant, folder).status == 2:
                outcome = outcome_of(mutant, folder, "run")
                refused += 1
                assert outcome.status == 2
                assert not outcome.faults, (mutant, outcome.said)
    assert refused
