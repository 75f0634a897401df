"""Many mounts of one bucket in memory, in virtual time: what they ask, counted (docs/scale.md)."""
