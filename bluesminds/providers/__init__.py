"""Wire dialects: pure functions over bytes and values, one file each. They do no I/O and do not retry."""
