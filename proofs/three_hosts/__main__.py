"""Lose each host, and each service alone, while a kill switch or a recovery is under way on three hosts.

`python -m proofs.three_hosts` makes the reference topology in network namespaces, which needs root, and draws its cases
by a seed. `--write` writes docs/evidence/three-hosts.md.
"""

from __future__ import annotations

import argparse
import os
import sys

from proofs.three_hosts.losses import in_order, kill_cases, recovery_cases
from proofs.three_hosts.network import NoNamespaces, lay_network


def main() -> int:
    options = argparse.ArgumentParser(
        prog="python -m proofs.three_hosts", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--kills", type=int, default=2, help="how often each loss meets a kill switch")
    options.add_argument("--recoveries", type=int, default=1, help="how often each loss meets a recovery")
    options.add_argument("--only", default="*", help="cases whose name matches, such as 'kill/*/host A*'")
    options.add_argument("--minutes", type=float, default=float("inf"), help="begin no case after that many")
    options.add_argument("--write", action="store_true", help="write docs/evidence/three-hosts.md")
    given = options.parse_args()
    if os.geteuid() != 0:
        print("three-hosts: left out, as network namespaces need root")
        return 0
    try:
        lay_network()
    except NoNamespaces as error:
        print(f"three-hosts: left out: {error}")
        return 0
    # What these import begins threads, which would stay on the network that this process has left.
    from proofs.three_hosts.campaign import run  # noqa: PLC0415
    from proofs.three_hosts.report import EVIDENCE, report  # noqa: PLC0415

    cases = in_order(kill_cases(given.seed, given.kills), recovery_cases(given.seed, given.recoveries))
    campaign = run(cases, given.only, given.minutes, lambda text: print(text, flush=True))
    print(f"{len(campaign.kills)} kills, {len(campaign.recoveries)} recoveries, {campaign.red} red")
    if given.write:
        EVIDENCE.write_text(report(campaign, given.seed), encoding="utf-8")
    return 1 if campaign.red else 0


if __name__ == "__main__":
    sys.exit(main())
