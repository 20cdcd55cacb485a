"""The sidecar: verifies and caches policies on one host, and answers Authorize."""
