from collegium.jobs.states import ACTIVE, HELD, STATUSES, TERMINAL, TRANSITIONS


def reachable(status):
    return {transition.target for transition in TRANSITIONS if transition.source == status}


def test_every_state_is_active_or_terminal():
    assert {*ACTIVE, *TERMINAL} == set(STATUSES)
    assert not {*ACTIVE} & {*TERMINAL}
    assert {*HELD} < {*ACTIVE}


def test_no_transition_leaves_a_terminal_state_and_none_is_listed_twice():
    assert not any(reachable(status) for status in TERMINAL)
    assert len(set(TRANSITIONS)) == len(TRANSITIONS)


def test_every_active_state_reaches_an_end():
    for status in ACTIVE:
        seen, border = {status}, {status}
        while border:
            border = set().union(*map(reachable, border)) - seen
            seen |= border
        assert seen & {*TERMINAL}
