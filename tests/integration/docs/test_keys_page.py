"""docs/operations/keys.md, typed as it stands there, from top to bottom, against a real server.

Replaced are only what a person does: reading an anchor or a key id off the screen (the page's variables), and agreeing
to sign (`--yes`).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.docs.pages import blocks, read, section, typed
from tests.integration.e2e import programs
from tests.integration.e2e.world import World, permit

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = read("docs/operations/keys.md")


class Reader:
    """Somebody who types the page's commands, and notes what they print."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.notes: dict[str, str] = {}

    def type_section(self, heading: str) -> list[str]:
        """Type the commands below a heading; return what each printed. All must succeed."""
        commands = [command for block in blocks(section(PAGE, heading), "console") for command in typed(block)]
        assert commands, heading
        return [self.type_in(command) for command in commands]

    def type_in(self, command: str) -> str:
        self.look_up(command)
        agreed = f"{command} --yes" if re.match(r"akpolicy (root|policy) sign ", command) else command
        environment = {"AKPOLICY_SERVER": self.world.url, "AKPOLICY_API_KEY": self.world.admin_key, **self.notes}
        done = programs.run(["sh", "-c", agreed], environment, cwd=self.world.directory)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if made := re.match(r"akpolicy keys generate --out ([\w-]+)\.pem$", command):
            name = made[1].upper().replace("-", "_")
            anchor, key_id = re.findall(r"^(?:anchor|key id)\s+(\S+)$", done.stdout, re.MULTILINE)
            self.notes |= {name: anchor, f"{name}_ID": key_id}
        return done.stdout

    def look_up(self, command: str) -> None:
        """Note the ids of keys that the page has its reader look up with `root show`."""
        org = re.search(r"--org (\w+)", command)
        for variable, role in (("ROOT_KEY_ID", "root"), ("BUNDLE_ID", "bundle"), ("LEAKED", "bundle")):
            if f"${variable}" in command and org is not None:
                self.notes[variable] = self.keys(org[1], role)[0]

    def keys(self, org: str, role: str) -> list[str]:
        """Return the ids of the keys in a role of an org's newest root."""
        name = f"{role}:org/{org}" if role == "bundle" else role
        found: list[str] = next(entry["keys"] for entry in self.root(org)["roles"] if entry["role"] == name)
        return found

    def root(self, org: str) -> dict[str, Any]:
        done = self.world.cli("root", "show", "--org", org, "--output", "json")
        assert done.returncode == 0, done.stderr
        shown: dict[str, Any] = json.loads(done.stdout)
        return shown


@pytest.fixture
def reader() -> Iterator[Reader]:
    with World() as world:
        world.server_dir = world.directory / "policy-server"
        world.init()
        (world.directory / "policies.cedar").write_text(permit("all"), encoding="utf-8")
        world.start_server()
        made = Reader(world)
        made.notes["ANCHOR"] = world.anchors["acme"]
        yield made


def test_every_section_with_commands_is_typed_here() -> None:
    headings = [
        heading for heading in re.findall(r"^## .+$", PAGE, re.MULTILINE) if blocks(section(PAGE, heading), "console")
    ]
    assert headings == [*ONE_KEY, *SEVERAL_KEYS, *LEAKED, RESTORED]


ONE_KEY = ["## Look at them", "## Take the root key off the server"]
SEVERAL_KEYS = [
    "## Put a new org's root keys into several hands",
    "## Change a root",
    "## Let people sign policies",
    "## Stop everything: freeze",
]
LEAKED = ["## When a key leaked"]
RESTORED = "## When the server is put back from a backup"


@pytest.mark.slow
def test_the_root_key_leaves_the_server_and_a_leak_is_answered(reader: Reader) -> None:
    shown, _, inspected = reader.type_section(ONE_KEY[0])
    assert "role bundle:org/acme" in shown
    assert "it is reached from the anchors" in inspected
    first = reader.keys("acme", "root")
    _, checked = reader.type_section(ONE_KEY[1])
    assert checked == "nothing to see to\n"
    second = reader.keys("acme", "root")
    assert first != second
    reader.world.publish(permit("all"))
    bundle = reader.keys("acme", "bundle")
    revoked, _ = reader.type_section(LEAKED[0])
    assert "signed anew  org/acme version 2" in revoked
    assert reader.keys("acme", "bundle") != bundle
    root = reader.root("acme")
    assert set(root["revoked"]) == {*bundle, *second}
    reader.type_section(RESTORED)
    assert [(entry.epoch, entry.version) for entry in reader.world.history("acme")][:2] == [(2, 2), (2, 1)]


@pytest.mark.slow
def test_an_org_with_several_root_keys_lives_by_the_page(reader: Reader) -> None:
    created = reader.type_section(SEVERAL_KEYS[0])
    assert created[-1].startswith("published root version 1 of newco")
    for heading in SEVERAL_KEYS[1:3]:
        reader.type_section(heading)
    assert set(reader.keys("newco", "root")) == {reader.notes[f"{name}_ID"] for name in ("ALICE", "BOB", "DAVE")}
    assert set(reader.keys("newco", "bundle")) == {reader.notes[f"POLICY_{n}_ID"] for n in (1, 2)}
    [published] = reader.world.history("newco")
    assert published.message == "signed by two"
    frozen, freed = reader.type_section(SEVERAL_KEYS[3])
    assert frozen.startswith("newco is frozen")
    assert freed.startswith("newco is not frozen")
    assert len(reader.world.history("newco")) == 3
