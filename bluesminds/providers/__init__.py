"""Wire dialects: pure functions over bytes and values, one file each. No client, no clock, no retries."""
