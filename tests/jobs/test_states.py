from collegium.jobs.states import ACTIVE, ARROWS, HELD, STATUSES, TERMINAL


def reachable(status):
    return {arrow.target for arrow in ARROWS if arrow.source == status}


def test_every_state_is_active_or_terminal():
    assert {*ACTIVE, *TERMINAL} == set(STATUSES)
    assert not {*ACTIVE} & {*TERMINAL}
    assert {*HELD} < {*ACTIVE}


def test_no_arrow_leaves_a_terminal_state_and_none_is_drawn_twice():
    assert not any(reachable(status) for status in TERMINAL)
    assert len(set(ARROWS)) == len(ARROWS)


def test_every_active_state_reaches_an_end():
    for status in ACTIVE:
        seen, border = {status}, {status}
        while border:
            border = set().union(*map(reachable, border)) - seen
            seen |= border
        assert seen & {*TERMINAL}
