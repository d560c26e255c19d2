"""`python -m bench`: run the benchmark, print the table, write the results.

Rounds are interleaved (every subject once, then every subject again, another one first), so that a slow
minute of the machine falls on all of them; medians are taken over the rounds. The subjects have the first
CPU, the client and the upstream share the second.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from bench import processes, report, subjects
from bench.client import Plan, Report
from bench.processes import BenchError
from bench.report import Phase, Row
from bench.scenarios import SCENARIOS, Scenario
from bench.subjects import SUBJECTS, Subject

T = TypeVar("T")
SUBJECT_CPU = 0
LOAD_CPU = 1
RESULTS = Path(__file__).with_name("results.json")


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to look, in seconds and rounds."""

    rounds: int
    warm_up: float
    window: float


FULL = Effort(rounds=3, warm_up=0.3, window=1.0)
QUICK = Effort(rounds=1, warm_up=0.2, window=0.6)


class LoadClient:
    """The client process, one plan at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, plan: Plan) -> Report:
        """BenchError when an answer was wrong."""
        if self._process.stdin is None or self._process.stdout is None:
            raise BenchError("the load client has no pipes")
        self._process.stdin.write(json.dumps(asdict(plan)) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": "the load client ended"}')
        if "error" in answer:
            raise BenchError(answer["error"])
        return Report(**answer)


class Run:
    """All phases of one run, and what they showed."""

    def __init__(self, effort: Effort, client: LoadClient, running: Sequence[Subject]) -> None:
        self.answered: Counter[str] = Counter()
        self._effort = effort
        self._client = client
        self._running = running

    def results(self, scenarios: Sequence[Scenario], progress: Callable[[str], None]) -> report.Results:
        phases: dict[str, dict[str, list[Phase]]] = {}
        for number in range(self._effort.rounds):
            for scenario in scenarios:
                progress(f"round {number + 1} of {self._effort.rounds}: {scenario.name}")
                for name, phase in self._round(scenario, number):
                    phases.setdefault(scenario.name, {}).setdefault(name, []).append(phase)
        return {name: _rows(by_subject) for name, by_subject in phases.items()}

    def _round(self, scenario: Scenario, number: int) -> Iterator[tuple[str, Phase]]:
        measured = {
            subject.name: self._phase(scenario, subject) for subject in rotated(self._running, number)
        }
        base = measured["direct"]
        yield "direct", Phase(base, 0.0, 0.0)
        for subject in self._running:
            if subject.name != "direct":
                yield subject.name, Phase(measured[subject.name], base.p50_ms, base.p99_ms)

    def _phase(self, scenario: Scenario, subject: Subject) -> Report:
        warm_up = max(self._effort.warm_up, scenario.connections * 0.002) + (0.4 if scenario.stream else 0.0)
        plan = Plan(scenario.name, subject.port, subject.key, warm_up, self._effort.window, subject.pids)
        try:
            measured = self._client.run(plan)
        except BenchError as error:
            raise BenchError(f"{scenario.name}, {subject.name}: {error}") from None
        self.answered[subject.name] += measured.answered
        return measured


def rotated(subjects: Sequence[T], number: int) -> list[T]:
    """The order of one round: each begins with another, so that none always has the same place."""
    start = number % len(subjects)
    return [*subjects[start:], *subjects[:start]]


def _rows(phases: Mapping[str, Sequence[Phase]]) -> dict[str, Row]:
    return {name: report.row(measured) for name, measured in phases.items()}


def measure(names: Sequence[str], scenarios: Sequence[Scenario], effort: Effort) -> report.Results:
    """Start everything, run all rounds, stop everything, and hold the gateway to its usage rows."""
    with tempfile.TemporaryDirectory(prefix="bluesminds-bench-") as name:
        directory = Path(name)
        with contextlib.ExitStack() as stack:
            upstream = _start_load("bench.upstream", directory, stack)
            if upstream.stdout is None:
                raise BenchError("the upstream has no pipe")
            port = int(upstream.stdout.readline())
            client = LoadClient(_start_load("bench.client", directory, stack))
            try:
                with processes.pinned(SUBJECT_CPU):
                    running = [stack.enter_context(SUBJECTS[each](port, directory)) for each in names]
                run = Run(effort, client, running)
                results = run.results(scenarios, _progress)
            except BenchError as error:
                raise BenchError(f"{error}\n{_last_words(directory)}") from None
        if "gateway" in names:
            _check_usage(run.answered["gateway"], subjects.recorded_requests(directory))
    return results


def _start_load(module: str, directory: Path, stack: contextlib.ExitStack) -> subprocess.Popen[str]:
    with processes.pinned(LOAD_CPU):
        process = processes.start_module(module, log=directory / "load.log", piped=True)
    stack.callback(processes.stop, process)
    return process


def _last_words(directory: Path, lines: int = 12) -> str:
    """The ends of the logs, since their directory goes with the run."""
    ends = (
        (log.name, log.read_text(errors="replace").splitlines()) for log in sorted(directory.glob("*.log"))
    )
    return "\n".join(f"--- {name}\n" + "\n".join(text[-lines:]) for name, text in ends if text)


def _check_usage(answered: int, recorded: int) -> None:
    if answered != recorded:
        raise BenchError(f"the gateway answered {answered} requests and recorded {recorded}")
    print(f"gateway: {recorded} requests answered, as many usage rows recorded\n")


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _machine() -> str:
    return f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure the gateway beside other proxies."
    )
    parser.add_argument("--quick", action="store_true", help="one short round: a smoke test, not a figure")
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS), help="only this; repeatable")
    parser.add_argument(
        "--subject",
        action="append",
        choices=[name for name in SUBJECTS if name != "direct"],
        help="only this; repeatable",
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="where the figures go (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    names = [
        name for name in SUBJECTS if options.subject is None or name in options.subject or name == "direct"
    ]
    if "nginx" in names and options.subject is None and subjects.find_nginx() is None:
        names.remove("nginx")
        _progress("nginx is not installed: left out")
    scenarios = [
        SCENARIOS[name] for name in SCENARIOS if options.scenario is None or name in options.scenario
    ]
    try:
        results = measure(names, scenarios, QUICK if options.quick else FULL)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(
        f"{_machine()}\n"
        "CPU us: per request, per content event in s50, s200 and t50; +p50, +p99: added latency\n"
    )
    print(report.table(results))
    print("", *report.targets(results), sep="\n")
    report.write(results, options.results)
    print(f"\nwritten to {options.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
