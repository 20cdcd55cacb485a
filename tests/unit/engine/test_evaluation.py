"""Plain Cedar over any files: names, forms, and what strictness changes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cedarpy
import pytest

from akpolicy.engine.evaluation import Answer, Policies, World, answer
from akpolicy.engine.foreign import MAX_CONDITIONALS, MAX_DEPTH, MAX_EVALUATED_OPERATORS, read_request, read_schema
from akpolicy.engine.verdict import Effect
from akpolicy.errors import PolicyParseError, PolicyTemplate, PolicyTooDeep, RequestInvalid, SchemaInvalid

if TYPE_CHECKING:
    from akpolicy.errors import AkpolicyError

ALICE = {"type": "User", "id": "alice"}
VIEW = {"type": "Action", "id": "view"}
PHOTO = {"type": "Photo", "id": "p"}
REQUEST = {"principal": ALICE, "action": VIEW, "resource": PHOTO}
PERMIT = "permit (principal, action, resource);"
ERRING = "{} (principal, action, resource) when {{ principal.missing }};"
SCHEMA = """
entity User in [User] { age?: Long }; entity Photo;
action view appliesTo { principal: [User], resource: [Photo], context: { ip?: ipaddr } };
"""


def ask(policies: str, request: Any = REQUEST, *, entities: Any = (), schema: str = "", strict: bool = True) -> Answer:
    handle = read_schema(schema) if schema else None
    return answer(
        Policies.read(policies), World(json.dumps(list(entities)), handle, strict=strict), request, strict=strict
    )


def test_policies_are_called_by_their_place_or_by_their_own_id() -> None:
    assert ask(f'{PERMIT}\n@id("mine") {PERMIT}\n// the end').reasons == ("policy0", "mine")


@pytest.mark.parametrize("names", [("twice", "twice"), ("policy1", "other")])
def test_a_name_that_could_mean_two_policies_is_not_used(names: tuple[str, str]) -> None:
    text = "\n".join(f'@id("{name}") {PERMIT}' for name in names)
    expected = ("policy0", "policy1") if names[0] == names[1] else ("policy0", "other")

    assert ask(text).reasons == expected


@pytest.mark.parametrize(
    ("written", "name"),
    [('a\\"b', 'a"b'), ("\\u{e9}", "é"), ("\\\\", "\\"), ("\\0", "\0"), ("\\n\\*", "policy0")],
)
def test_a_name_is_what_its_escapes_mean(written: str, name: str) -> None:
    found = ask(f'@id("{written}") {PERMIT}') if name != "policy0" else ask(f"@x {PERMIT}")

    assert found.reasons == (name,)


def test_policies_may_be_in_the_json_form() -> None:
    text = cedarpy.policies_to_json_str(f"{PERMIT}\nforbid (principal, action, resource) when {{ false }};")

    assert ask(text).reasons == ("policy0",)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("permit (principal == ?principal, action, resource);", PolicyTemplate),
        ("permit (principal, action);", PolicyParseError),
        (PERMIT[:-1], PolicyParseError),
        ('{"staticPolicies": 1}', PolicyParseError),
        ('{"templates": {"t": 1}}', PolicyTemplate),
        (f"permit (principal, action, resource) when {{ {'(' * MAX_DEPTH}true{')' * MAX_DEPTH} }};", PolicyTooDeep),
    ],
)
def test_what_is_no_policy_is_refused(text: str, error: type[AkpolicyError]) -> None:
    with pytest.raises(error):
        Policies.read(text)


PADDING = "// " + "x" * 20_000 + "\n"
WHEN = "permit (principal, action, resource) when {{ {} }};"


@pytest.mark.parametrize(
    ("condition", "word"),
    [
        (PADDING + "(" * 1000 + "true" + ")" * 1000, "brackets"),
        ("if true then true else " * (MAX_CONDITIONALS + 1) + "true", "if"),
        (" && ".join(["true"] * (MAX_EVALUATED_OPERATORS + 2)), "operators"),
    ],
    ids=["brackets behind the size of a policy", "nested if", "operators"],
)
def test_what_would_end_the_process_is_refused_with_its_line(condition: str, word: str) -> None:
    with pytest.raises(PolicyTooDeep, match=word) as caught:
        Policies.read(PERMIT + "\n" + WHEN.format(condition))

    assert caught.value.problems[0].line == 2


@pytest.mark.parametrize(
    "condition",
    [
        "(" * (MAX_DEPTH - 2) + "true" + ")" * (MAX_DEPTH - 2),
        "if true then true else " * MAX_CONDITIONALS + "true",
        " && ".join(["true"] * MAX_EVALUATED_OPERATORS),
    ],
    ids=["brackets", "if", "operators"],
)
def test_what_is_within_the_limits_is_evaluated(condition: str) -> None:
    assert ask(WHEN.format(condition)).effect is Effect.ALLOW


def test_what_breaks_limits_of_a_publish_is_evaluated_all_the_same() -> None:
    chain = " && ".join(["true"] * 3000)

    assert ask(f"permit (principal, action, resource) when {{ {chain} }};").effect is Effect.ALLOW


@pytest.mark.parametrize("form", ['User::"alice"', ALICE, {"__entity": ALICE}])
def test_an_entity_may_be_written_in_three_forms(form: object) -> None:
    assert ask('permit (principal == User::"alice", action, resource);', {**REQUEST, "principal": form}).reasons


@pytest.mark.parametrize("name", ["a\0b", "a\nb", 'a"b', "\\", "é", "\u200b"])
def test_any_entity_id_is_an_entity(name: str) -> None:
    uid = {"type": "User", "id": name}
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\0", "\\0").replace("\n", "\\n")
    family = [{"uid": uid, "attrs": {}, "parents": [{"type": "User", "id": "boss"}]}]
    texts = (
        f'permit (principal == User::"{escaped}", action, resource);permit(principal in User::"boss",action,resource);'
    )

    assert ask(texts, {**REQUEST, "principal": uid}, entities=family).reasons == ("policy0", "policy1")


@pytest.mark.parametrize(
    "uid",
    [
        None,
        1,
        [],
        {},
        {"type": "User"},
        "alice",
        'User::"a", action, resource); permit (principal',
        'User::"a", action, resource) when { ' + "(" * 5000,
        'User::"a" // and more',
        '::"a"',
        'User "a"',
        "A" + "::A" * 200_000 + '::"a"',
        {"type": 1, "id": ""},
    ],
)
def test_what_is_no_entity_is_refused_with_its_place(uid: object) -> None:
    with pytest.raises(RequestInvalid) as caught:
        ask(PERMIT, {**REQUEST, "principal": uid})

    assert "principal" in caught.value.message


@pytest.mark.parametrize("context", [0, False, "", [], "x", 1])
def test_a_context_that_is_no_object_is_refused(context: object) -> None:
    with pytest.raises(RequestInvalid, match="object"):
        ask(PERMIT, {**REQUEST, "context": context})


@pytest.mark.parametrize("line", [b'{"action": 1, "action": 2}', b'{"context": {"a": {"x": 1, "x": 1}}}'])
def test_a_field_that_is_there_twice_is_refused(line: bytes) -> None:
    with pytest.raises(RequestInvalid, match="twice"):
        read_request(line)


def test_a_policy_that_is_there_twice_is_refused() -> None:
    document = cedarpy.policies_to_json_str(PERMIT)
    inner = json.dumps(json.loads(document)["staticPolicies"]["policy0"])

    with pytest.raises(PolicyParseError, match="twice"):
        Policies.read(f'{{"staticPolicies": {{"a": {inner}, "a": {inner}}}}}')


@pytest.mark.parametrize("part", ["principal", "context"])
def test_text_that_is_no_unicode_is_refused(part: str) -> None:
    request = json.loads(json.dumps(REQUEST))
    request[part] = {"type": "User", "id": "\ud800"} if part == "principal" else {"x": "\ud800"}

    with pytest.raises(RequestInvalid):
        ask(PERMIT, request)


@pytest.mark.parametrize(
    "entities",
    [
        [{"uid": ALICE, "attrs": {}, "parents": [ALICE]}],
        [
            {"uid": ALICE, "attrs": {}, "parents": [{"type": "User", "id": "b"}]},
            {"uid": {"type": "User", "id": "b"}, "attrs": {}, "parents": [ALICE]},
        ],
        [{"uid": ALICE, "attrs": {}, "parents": []}, {"uid": ALICE, "attrs": {"age": 1}, "parents": []}],
        [{"uid": ALICE, "attrs": {"age": None}, "parents": []}],
        [1],
    ],
    ids=["its own parent", "a cycle", "one twice", "null", "no entity"],
)
def test_entities_that_cedar_refuses_are_refused(entities: list[Any]) -> None:
    with pytest.raises(RequestInvalid, match="entities"):
        ask(PERMIT, entities=entities)


def test_a_failing_permit_is_an_error_and_does_not_match() -> None:
    found = ask(ERRING.format("permit") + PERMIT)

    assert (found.effect, found.reasons, len(found.errors)) == (Effect.ALLOW, ("policy1",), 1)
    assert found.errors[0].startswith("policy0: ")


def test_a_failing_forbid_denies_unless_it_is_plain_cedar() -> None:
    strict, plain = (ask(ERRING.format("forbid") + PERMIT, strict=strict) for strict in (True, False))

    assert (strict.effect, strict.reasons, strict.failed_forbid) == (Effect.DENY, (), "policy0")
    assert (plain.effect, plain.reasons, len(plain.errors)) == (Effect.ALLOW, ("policy1",), 1)


@pytest.mark.parametrize("context", [{"ip": 1}, {"more": True}])
def test_a_request_that_does_not_fit_the_schema_is_refused_unless_it_is_plain_cedar(context: dict[str, Any]) -> None:
    request = {**REQUEST, "context": context}
    with pytest.raises(RequestInvalid):
        ask(PERMIT, request, schema=SCHEMA)

    assert ask(PERMIT, request, schema=SCHEMA, strict=False).effect is Effect.ALLOW


def test_with_a_schema_values_are_read_as_it_says() -> None:
    text = "permit (principal, action, resource) when { context.ip.isLoopback() };"

    assert ask(text, {**REQUEST, "context": {"ip": "127.0.0.1"}}, schema=SCHEMA).effect is Effect.ALLOW


TYPED = """
entity User; entity Photo; type Where = { ip: ipaddr, by: User, seen: Set<decimal>, at?: datetime };
action readers; action view in [readers] appliesTo { principal: [User], resource: [Photo], context: { where: Where } };
"""
WHERE = {"ip": "127.0.0.1", "by": ALICE, "seen": ["1.0"], "at": {"fn": "datetime", "arg": "2026-01-31"}, "more": {}}
READ = """permit (principal, action in Action::"readers", resource) when {
  context.where.ip.isLoopback() && context.where.by == principal && context.where.seen.contains(decimal("1.0"))
  && context.where.at < datetime("2026-02-01") };"""


def test_what_does_not_fit_the_schema_is_still_read_as_the_schema_says() -> None:
    stranger = {"uid": {"type": "Nobody", "id": "x"}, "attrs": {}, "parents": []}
    request = {**REQUEST, "context": {"where": WHERE, "stray": "127.0.0.1"}}

    assert ask(READ, request, entities=[stranger], schema=TYPED, strict=False).reasons == ("policy0",)


def test_entities_may_name_the_actions_of_a_schema_that_they_do_not_fit() -> None:
    entities = [{"uid": {"type": kind, "id": "view"}, "attrs": {}, "parents": []} for kind in ("Action", "Nobody")]

    assert ask(PERMIT, {**REQUEST}, entities=entities, schema=TYPED, strict=False).effect is Effect.ALLOW


@pytest.mark.parametrize(
    ("request_", "entities", "told"),
    [
        ({"context": {"ip": 1}}, [], "`context.ip` must be an ipaddr, but is a Long"),
        ({"resource": ALICE}, [], "`resource` is a `User`; action `view` applies to `Photo`"),
        ({}, [{"uid": ALICE, "attrs": {"age": "x"}, "parents": []}], 'User::"alice": `age` must be a Long'),
        ({}, [{"uid": {"__entity": ALICE}, "attrs": {"x": 1}, "parents": []}], "`x` is unknown; `User` has `age`"),
    ],
)
def test_a_misfit_is_named_with_its_type(request_: dict[str, Any], entities: list[Any], told: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        ask(PERMIT, {**REQUEST, **request_}, entities=entities, schema=SCHEMA)

    assert told in caught.value.message


def test_a_schema_may_be_in_the_json_form() -> None:
    document: dict[str, object] = {"": {"entityTypes": {"User": {}, "Photo": {}}, "actions": {}}}

    assert "Photo" in str(read_schema(json.dumps(document)))
    with pytest.raises(SchemaInvalid):
        read_schema("entity;")


def test_a_schema_that_would_end_the_process_is_refused() -> None:
    with pytest.raises(SchemaInvalid, match="deep"):
        read_schema(f"entity User {{ x: {'Set<' * 50_000}Long{'>' * 50_000} }};")
