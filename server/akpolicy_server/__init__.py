"""The policy server: validates, versions, signs, stores and streams policies."""
