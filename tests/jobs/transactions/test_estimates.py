import pytest

from collegium.jobs.errors import NotStorable


def test_the_last_value_is_kept(store):
    assert store.get_estimate("k") is None
    store.put_estimate("k", {"count": 1, "sums": [0.1, 1e-300]})
    store.put_estimate("other", {})
    store.put_estimate("k", {"count": 2, "sums": [0.1 + 0.2, 1e300]})
    assert store.get_estimate("k") == {"count": 2, "sums": [0.1 + 0.2, 1e300]}
    assert store.get_estimate("other") == {}
    with pytest.raises(NotStorable):
        store.put_estimate("k", {"count": float("nan")})
    assert store.get_estimate("k")["count"] == 2
