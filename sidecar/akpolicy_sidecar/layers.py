"""From verified bundles to layers that can be enforced.

Rules:

- Cedar text that this host has never parsed is parsed by a child process first (`fence`): what kills the child is
  refused, and never seen by this process. What an earlier run with the same version of Cedar has enforced was parsed.
- Content that the scope had last is not compiled again: a renewal, or the same policy under another key, costs a
  signature check.
- A schema in the content is refused: invalid, or not supported by this version.
- A prefix without `grants` publishes forbids only; what its policies are is known once they are compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from akpolicy.decision import BundleVersion
from akpolicy.engine.compile import Effect, compile_layer
from akpolicy.engine.source import PolicyText
from akpolicy.errors import SchemaUnsupported
from akpolicy.trust import refuse_ungranted
from akpolicy_sidecar.snapshot import layer_of

if TYPE_CHECKING:
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
    """Builds layers with one schema."""

    def __init__(self, schema: CedarSchema, fence: Prover) -> None:
        """`fence` takes what was never parsed before."""
        self._schema = schema
        self._fence = fence
        # The digest of the content that each scope had last, and what it was compiled to.
        self._compiled: dict[str, tuple[str, CompiledLayer]] = {}

    def build(self, bundle: VerifiedBundle, *, root_expires_at: int, parsed_before: bool) -> Enforced:
        """Return what `bundle` enforces; `parsed_before` says that this version of Cedar has parsed its content here.

        Raises the `PolicyError` that says why it cannot be enforced, or `KeyNotAuthorised` for an ungranted permit.
        """
        manifest = bundle.manifest
        revision = BundleVersion(manifest.scope, manifest.epoch, manifest.version, bundle.digest)
        if bundle.content is None:
            return Enforced(revision, bundle.envelope, None, None)
        digest = bundle.content.digest
        known, compiled = self._compiled.get(manifest.scope, (None, None))
        if compiled is None or known != digest:
            compiled = self._compile(bundle, parsed_before=parsed_before)
            self._compiled[manifest.scope] = digest, compiled
        refuse_ungranted(bundle, _permits(compiled))
        layer = layer_of(manifest, bundle.digest, compiled, root_expires_at=root_expires_at)
        return Enforced(revision, bundle.envelope, bundle.original, layer)

    def _compile(self, bundle: VerifiedBundle, *, parsed_before: bool) -> CompiledLayer:
        scope, content = bundle.manifest.scope, bundle.content
        if content is None:
            msg = "a deleted scope has nothing to compile"
            raise RuntimeError(msg)
        if content.content.schema_text is not None:
            self._fence.prove_schema(content.content.schema_text)
            msg = "the bundle brings its own schema; this version only knows the default schema"
            raise SchemaUnsupported(msg)
        texts = [PolicyText(entry.id, entry.text, scope) for entry in content.content.policies]
        if not parsed_before:
            self._fence.prove(texts, self._schema)
        return compile_layer(scope, texts, self._schema, checked=not parsed_before)


def _permits(compiled: CompiledLayer) -> list[str]:
    return [policy.id for policy in compiled.policies if policy.effect is Effect.ALLOW]
