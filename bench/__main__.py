"""python -m bench [audit|budgets|campaign|fairness|launch|login|rpc|search|telemetry] [options]: figures only."""

from __future__ import annotations

import importlib
import sys

BENCHES = (
    "audit",
    "budgets",
    "campaign",
    "fairness",
    "launch",
    "login",
    "rpc",
    "search",
    "telemetry",
)


def main() -> int:
    names = [name for name in sys.argv[1:2] if name in BENCHES] or list(BENCHES)
    options = sys.argv[2:] if sys.argv[1:2] and sys.argv[1] in BENCHES else sys.argv[1:]
    for name in names:
        importlib.import_module(f"bench.{name}").main(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
