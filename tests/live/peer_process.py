"""A process of the tests: joins the head and answers requests, or only talks as a node does.

`python -m tests.live.peer_process ENDPOINT NAME ADDRESS [--incarnation N] [--lease S] [--keys FILE --server-key KEY]`
"""

import argparse
import asyncio
import sys
from pathlib import Path

from fleet.actor import FleetError
from fleet.runtime.live import LiveRuntime
from fleet.runtime.membership import MembershipOptions
from fleet.runtime.security import Security, read_keys
from fleet.runtime.transport import Node, NodeOptions
from tests.live.harness import QUICK, EchoActor


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("name")
    parser.add_argument("address")
    parser.add_argument("--incarnation", type=int)
    parser.add_argument("--lease", type=float, default=QUICK.membership.lease_s)
    parser.add_argument("--keys", type=Path)
    parser.add_argument("--server-key")
    arguments = parser.parse_args()
    security = (
        Security(read_keys(arguments.keys), server_key=arguments.server_key) if arguments.keys else None
    )
    options = NodeOptions(membership=MembershipOptions(lease_s=arguments.lease), socket=QUICK.socket)
    node = Node(arguments.name, options=options, security=security, incarnation=arguments.incarnation)
    node.connect(arguments.endpoint)
    runtime = LiveRuntime(node=node, name=arguments.name)
    runtime.add(arguments.address, EchoActor())
    try:
        asyncio.run(runtime.run())
    except FleetError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
