import pytest

from collegium.jobs.record import FAILURE_KINDS, LOG_TAIL_LIMIT, MESSAGE_LIMIT, Failure


def test_long_texts_are_cut_where_it_hurts_least():
    failure = Failure("internal", "m" * 9999, "r" * 9999, "early" + "l" * LOG_TAIL_LIMIT + "late")
    assert failure.message == "m" * MESSAGE_LIMIT
    assert failure.remedy == "r" * MESSAGE_LIMIT
    assert len(failure.log_tail) == LOG_TAIL_LIMIT
    assert failure.log_tail.endswith("late")


def test_a_failure_is_of_a_known_kind():
    for kind in FAILURE_KINDS:
        assert Failure(**Failure(kind, "m").as_dict()) == Failure(kind, "m", "", "")
    with pytest.raises(ValueError, match="one of invalid_spec, user_error"):
        Failure("bad_luck", "m")  # type: ignore[arg-type]
