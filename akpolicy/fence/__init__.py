"""The crash fence: what Cedar has never seen is parsed in a child process first.

Rules:

- Cedar's parser can end the process that runs it, and no limit of ours is proof that none of its crashes is left. The
  child (`child`) is what dies; the program asks it first (`fence`), and parses itself only what the child came through.
- The child has less of everything than its parent: less stack, bounded memory, no secrets, no descriptors. What kills
  the parent kills the child before it.
- What the child says is data (`protocol`): bounded, and parsed strictly. A compromised child can let bad policies pass
  its own check; the program's own check comes after it and is the one that counts.
- No network and no event loop; the child imports the engine and nothing more, because it stays in memory.
"""
