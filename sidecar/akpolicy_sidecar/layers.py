"""From verified bundles to layers that can be enforced.

Rules:

- Cedar text that this host has never parsed is parsed by a child process first (`fence`): what kills the child is
  refused, and never seen by this process. What an earlier run with the same version of Cedar has enforced was parsed.
- Content that the scope had last is not compiled again: a renewal, or the same policy under another key, costs a
  signature check.
- All layers have one schema: the org's own, which the bundle of its scope brings, or the packaged one. A new one counts
  only if every layer that is enforced fits it, which is proven by the child first. So one bundle changes the schema of
  all layers, or is refused. What a layer was compiled to does not depend on it.
- A schema of an org must have what this host builds (`host_schema`). `global` brings none: it is for many orgs.
- A prefix without `grants` publishes forbids only; what its policies are is known once they are compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from akpolicy.decision import BundleVersion
from akpolicy.engine.compile import Effect, compile_layer
from akpolicy.engine.host_schema import read_host_schema
from akpolicy.engine.source import PolicyText
from akpolicy.errors import EngineUnavailable, PolicyError, SchemaConflict, SchemaUnsupported
from akpolicy.scope import GLOBAL, is_member_scope
from akpolicy.trust import refuse_ungranted
from akpolicy_sidecar.pauses import give_way, let_go
from akpolicy_sidecar.snapshot import layer_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from akpolicy.engine.compile import CompiledLayer
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.fence.fence import Prover
    from akpolicy.trust import VerifiedBundle
    from akpolicy_sidecar.snapshot import Layer

ENGINE: Final = f"cedarpy {version('cedarpy')}"


@dataclass(frozen=True, slots=True)
class Enforced:
    """An accepted revision with its documents; `layer` is None if it deleted the scope."""

    bundle: BundleVersion
    envelope: SignedEnvelope
    original: SignedEnvelope | None
    layer: Layer | None

    @property
    def permits(self) -> list[str]:
        """The ids of its permits."""
        return _permits(self.layer.compiled) if self.layer else []


class LayerBuilder:
    """Builds layers, all with one schema."""

    def __init__(self, packaged: CedarSchema, fence: Prover) -> None:
        """Begin with the packaged schema; `fence` takes what was never parsed before."""
        self._packaged = packaged
        self._schema = packaged
        self._fence = fence
        # The digest of the content that each scope had last, the schema that it fits, and what it was compiled to.
        self._compiled: dict[str, tuple[str, CedarSchema, CompiledLayer]] = {}

    @property
    def schema(self) -> CedarSchema:
        """The schema of all layers."""
        return self._schema

    def schema_with(self, bundle: VerifiedBundle, *, parsed_before: bool) -> CedarSchema:
        """Return the schema of all layers once `bundle` is enforced.

        Raises the `PolicyError` that says why it cannot be one.
        """
        scope = bundle.manifest.scope
        text = bundle.content.content.schema_text if bundle.content is not None else None
        if scope == GLOBAL and text is not None:
            msg = "the bundle of `global` brings a schema; only an org has one of its own"
            raise SchemaUnsupported(msg)
        if scope == GLOBAL or is_member_scope(scope) or text == self._schema.text:
            return self._schema
        if text is None:
            return self._packaged
        if not parsed_before:
            self._fence.prove_schema(text)
        return read_host_schema(text)

    def refit(self, enforced: Iterable[tuple[str, Enforced]], schema: CedarSchema) -> None:
        """Raise `SchemaConflict` unless these layers, by scope, fit another schema; or `EngineUnavailable`."""
        for scope, entry in enforced:
            if entry.layer is None:
                continue
            compiled = entry.layer.compiled
            texts = [
                PolicyText(ref.id, text, scope) for ref, text in zip(compiled.policies, compiled.texts, strict=True)
            ]
            try:
                self._fence.prove(texts, schema)
            except EngineUnavailable:
                raise
            except PolicyError as error:
                msg = f"the layer of `{scope}` does not fit the schema: {error}"
                raise SchemaConflict(msg, policy_id=error.policy_id, source=scope) from error

    def use(self, schema: CedarSchema) -> None:
        """Have this schema for all layers from now on; what is enforced fits it (`refit`)."""
        self._schema = schema

    def build(
        self, bundle: VerifiedBundle, schema: CedarSchema, *, root_expires_at: int, parsed_before: bool
    ) -> Enforced:
        """Return what `bundle` enforces by a schema.

        `parsed_before` says that this version of Cedar has parsed its content here. Raises the `PolicyError` that says
        why it cannot be enforced, or `KeyNotAuthorised` for an ungranted permit.
        """
        manifest = bundle.manifest
        revision = BundleVersion(manifest.scope, manifest.epoch, manifest.version, bundle.digest)
        if bundle.content is None:
            return Enforced(revision, bundle.envelope, None, None)
        digest = bundle.content.digest
        known, fits, compiled = self._compiled.get(manifest.scope, (None, None, None))
        if compiled is None or known != digest or fits is not schema:
            compiled = self._compile(bundle, schema, parsed_before=parsed_before)
            self._compiled[manifest.scope] = digest, schema, compiled
        refuse_ungranted(bundle, _permits(compiled))
        layer = layer_of(manifest, bundle.digest, compiled, root_expires_at=root_expires_at)
        return Enforced(revision, bundle.envelope, bundle.original, layer)

    def _compile(self, bundle: VerifiedBundle, schema: CedarSchema, *, parsed_before: bool) -> CompiledLayer:
        scope, content = bundle.manifest.scope, bundle.content
        if content is None:
            msg = "a deleted scope has nothing to compile"
            raise RuntimeError(msg)
        texts = [PolicyText(entry.id, entry.text, scope) for entry in content.content.policies]
        if not parsed_before:
            self._fence.prove(texts, schema)
        compiled = compile_layer(scope, texts, schema, checked=not parsed_before, pause=give_way)
        let_go(texts)
        return compiled


def _permits(compiled: CompiledLayer) -> list[str]:
    return [policy.id for policy in compiled.policies if policy.effect is Effect.ALLOW]
