"""The benchmark: the gateway with everything on, beside what people run instead, on the same machine.

`python -m bench` starts a cheap upstream, a cheap load client and every subject, walks through the scenarios
in interleaved rounds, verifies every answer, prints a table and writes `bench/results.json`.
docs/benchmark.md says how to read it.
"""
