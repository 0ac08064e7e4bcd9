"""``python -m fleet.launch --head tcp://... --name host-1``: one replica's process, as the launcher starts it.

People use `fleet join`.
"""

from __future__ import annotations

import argparse
import logging
import sys

from fleet.launch.host import host


def main() -> int:
    """Host one replica; answers the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lease-s", type=float, default=3.0)
    parser.add_argument("--allow-module", action="append", default=[])
    arguments = parser.parse_args()
    logging.basicConfig(
        format=f"%(asctime)s {arguments.name} %(name)s %(levelname)s %(message)s", level=logging.WARNING
    )
    return host(
        arguments.head, arguments.name, seed=arguments.seed, lease_s=arguments.lease_s, watch_input=True,
        allow_modules=arguments.allow_module,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
