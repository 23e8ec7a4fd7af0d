"""Profile c99: C source of a network without dependencies, written from its guide alone, compiled and compared."""
