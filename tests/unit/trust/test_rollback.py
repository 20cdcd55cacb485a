"""The rollback as a document: its fields and their bounds, and the manifest that it amounts to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.bundle import CONTENT_MEDIA, ContentReference, Manifest
from akpolicy.errors import AkpolicyError, DuplicateField, FieldInvalid, MissingField, UnknownField
from akpolicy.limits import MAX_JSON_INT
from akpolicy.rollback import Restored, Rollback
from akpolicy.strict_json import dump, load
from tests.simulators.org import ABSENT, OrgSimulator, overridden

if TYPE_CHECKING:
    from collections.abc import Mapping

DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
COUNTERS = st.integers(1, MAX_JSON_INT)
CONTENTS = st.builds(
    ContentReference, digest=DIGESTS, size=COUNTERS, media=st.just(CONTENT_MEDIA), policies=st.integers(1, MAX_JSON_INT)
)


@st.composite
def rollbacks(draw: st.DrawFn) -> Rollback:
    issued_at = draw(st.integers(0, MAX_JSON_INT - 1))
    version = draw(st.integers(2, MAX_JSON_INT))
    return Rollback(
        type="rollback",
        spec=1,
        scope=draw(st.sampled_from(["global", "org/acme", "org/acme/team/a%20b"])),
        epoch=draw(COUNTERS),
        version=version,
        issued_at=issued_at,
        expires_at=draw(st.integers(issued_at + 1, MAX_JSON_INT)),
        restores=Restored(version=draw(st.integers(1, version - 1)), digest=draw(DIGESTS)),
        content=draw(CONTENTS),
    )


def document(**overrides: Any) -> dict[str, Any]:
    """Return a right rollback of version 2 to version 1 with changes."""
    org = OrgSimulator()
    original, _ = org.bundle_envelope()
    return overridden(org.rollback_document(original), overrides)


def refused(changed: Mapping[str, Any], error: type[AkpolicyError]) -> str:
    with pytest.raises(error) as caught:
        load(dump(changed), Rollback)
    assert type(caught.value) is error
    return caught.value.message


@given(rollbacks())
def test_what_is_written_is_read_again(rollback: Rollback) -> None:
    assert load(rollback.to_bytes(), Rollback) == rollback


@given(rollbacks(), st.data())
def test_it_amounts_to_its_own_version_and_life_with_the_originals_content_and_floor(
    rollback: Rollback, data: st.DataObject
) -> None:
    org = OrgSimulator()
    mode = data.draw(st.sampled_from(["fail_closed", "cached_with_expiry", "cached_indefinite", "default_policy"]))
    envelope, _ = org.bundle_envelope(offline={"mode": mode, "max_age_s": data.draw(st.integers(0, MAX_JSON_INT))})
    original = load(envelope.payload, Manifest)

    manifest = rollback.manifest(original)

    assert (manifest.scope, manifest.epoch, manifest.version) == (rollback.scope, rollback.epoch, rollback.version)
    assert (manifest.issued_at, manifest.not_before) == (rollback.issued_at, rollback.issued_at)
    assert manifest.expires_at == rollback.expires_at
    assert (manifest.content, manifest.offline) == (original.content, original.offline)
    assert (manifest.min_version, manifest.deleted) == (rollback.restores.version, False)
    # What it amounts to is a sound manifest.
    assert load(manifest.to_bytes(), Manifest) == manifest


def test_it_names_the_original_by_version_and_digest() -> None:
    org = OrgSimulator()
    original, _ = org.bundle_envelope("org/acme", version=5)

    rollback = load(org.rollback_envelope(original).payload, Rollback)

    assert rollback.restores == Restored(version=5, digest=original.digest().hex())
    assert (rollback.scope, rollback.version) == ("org/acme", 6)
    assert rollback.content == load(original.payload, Manifest).content


FIELDS = ["type", "spec", "scope", "epoch", "version", "issued_at", "expires_at", "restores", "content"]


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_must_be_there(field: str) -> None:
    assert f"`{field}`" in refused(document(**{field: ABSENT}), MissingField)


@pytest.mark.parametrize("field", ["min_version", "offline", "not_before", "deleted", "nonce"])
def test_nothing_else_may_be_said(field: str) -> None:
    refused(document(**{field: 1}), UnknownField)


@pytest.mark.parametrize("where", ["restores", "content"])
def test_nothing_else_may_be_said_inside(where: str) -> None:
    refused(document(**{where: {**document()[where], "comment": "hello"}}), UnknownField)


def test_no_field_may_stand_twice() -> None:
    with pytest.raises(DuplicateField):
        load(dump(document())[:-1] + b',"version":9}', Rollback)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "bundle"),
        ("spec", 2),
        ("spec", True),
        ("scope", ""),
        ("scope", "org/acme/"),
        ("scope", "org/acme/team/%74"),
        ("epoch", 0),
        ("epoch", "1"),
        ("version", 0),
        ("version", True),
        ("issued_at", -1),
        ("expires_at", None),
        ("restores", None),
        ("restores", {"version": 0, "digest": "0" * 64}),
        ("restores", {"version": 1, "digest": "0" * 65}),
        ("restores", {"version": 1, "digest": "A" * 64}),
        ("content", None),
        ("content", {"digest": "0" * 64, "size": 0, "media": CONTENT_MEDIA, "policies": 1}),
        ("content", {"digest": "zz" * 32, "size": 1, "media": CONTENT_MEDIA, "policies": 1}),
        ("content", {"digest": "0" * 64, "size": 1, "media": CONTENT_MEDIA, "policies": -1}),
    ],
)
def test_a_value_out_of_bounds_is_refused(field: str, value: object) -> None:
    assert f"`{field}" in refused(document(**{field: value}), FieldInvalid)


@pytest.mark.parametrize("field", ["epoch", "version", "issued_at", "expires_at"])
@pytest.mark.parametrize("value", [2.0, MAX_JSON_INT + 1])
def test_numbers_are_integers_that_json_has(field: str, value: float) -> None:
    refused(document(**{field: value}), FieldInvalid)


@pytest.mark.parametrize("life", [0, -1])
def test_it_expires_after_it_was_issued(life: int) -> None:
    right = document()

    assert "expires_at" in refused({**right, "expires_at": right["issued_at"] + life}, FieldInvalid)


@pytest.mark.parametrize("restored", [2, 3, MAX_JSON_INT])
def test_it_goes_back_and_not_to_itself_or_ahead(restored: int) -> None:
    restores = {**document()["restores"], "version": restored}

    assert "restores.version is not before version" in refused(document(restores=restores), FieldInvalid)
