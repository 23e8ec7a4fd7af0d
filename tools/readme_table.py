"""Turn the closing table of demo logs into README's rows: `python tools/readme_table.py seed0.log seed1.log …`."""

import sys
from pathlib import Path

CELLS = 5


def rows(log: str) -> list[list[str]]:
    """Cells of the closing table."""
    lines = [line.strip("│ \n").split("│") for line in log.splitlines() if line.startswith("│") and "±" in line]
    return [[cell.strip() for cell in line] for line in lines if len(line) == CELLS]


def short(row: list[str]) -> str:
    """Accuracy, and where there are any, bits and ratio."""
    accuracy, ratio = row[2].split(" ")[0], row[3].split(" ")[0]
    return f"{accuracy} ({row[1]}, {ratio})" if row[1] else accuracy


def main() -> None:
    """Print the whole table of the first log, then accuracy and ratio of every log side by side."""
    logs = [rows(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]]
    print("| network | input bits per layer | test accuracy % | latency ratio | weight bytes |")
    print("| --- | --- | ---: | ---: | ---: |")
    for row in logs[0]:
        print("| " + " | ".join(row) + " |")
    print()
    print("| network | " + " | ".join(f"seed {seed}" for seed in range(len(logs))) + " |")
    print("| --- |" + " --- |" * len(logs))
    for same in zip(*logs, strict=True):
        cells = [
            f"{row[2].split(' ')[0]} ({row[1]}, {row[3].split(' ')[0]})" if row[1] else row[2].split(" ")[0]
            for row in same
        ]
        print(f"| {same[0][0]} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
