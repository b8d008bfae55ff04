import pytest
from sqlalchemy import select

from collegium.jobs.database.schema import api_keys


def test_a_key_opens_until_it_is_revoked(store):
    assert not store.has_keys()
    key, secret = store.add_key("laptop")
    other, other_secret = store.add_key("laptop")
    assert key.name == "laptop"
    assert store.has_keys()
    assert store.verify_key(secret) == key
    assert store.verify_key(other_secret) == other
    assert store.list_keys() == [key, other]
    assert store.revoke_key(key.id)
    assert not store.revoke_key(key.id)
    assert store.verify_key(secret) is None
    assert store.verify_key(other_secret) == other


def test_only_the_whole_secret_opens(store):
    key, secret = store.add_key("laptop")
    head, _, tail = secret.rpartition("_")
    forged = [f"{head}_", f"{head}_{tail[:-1]}", f"{secret}0", secret.upper(), f"x_{key.id}_{tail}", key.id]
    for text in (*forged, "", "_", "__", "a\0b_\ud800_c", "ä_ö_ü", f"collegium_{key.id}_\ud800"):
        assert store.verify_key(text) is None


def test_the_secret_is_not_kept(store):
    _, secret = store.add_key("laptop")
    with store.database.read() as connection:
        row = connection.execute(select(api_keys)).one()
    assert not any(str(value) in secret for name, value in row._mapping.items() if name != "id")
    assert secret.rpartition("_")[2] not in str(row)


def test_a_key_has_a_name(store):
    for name in ("", "x" * 256):
        with pytest.raises(ValueError, match="name"):
            store.add_key(name)
