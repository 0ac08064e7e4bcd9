"""Keys: who has one may speak, who has another may not, and a name belongs to its key."""

import asyncio
import stat

import pytest

from fleet.actor import FleetError
from fleet.runtime.security import (
    AllowList,
    KeyPair,
    PeerRule,
    Security,
    generate_keys,
    is_loopback,
    read_allow_list,
    read_keys,
    write_keys,
)  # fmt: skip
from fleet.runtime.transport import Node
from tests.live.harness import order, peer_process, run_with_fleet, submit, until

HEAD, REPLICA, STRANGER = generate_keys(), generate_keys(), generate_keys()
ALLOW = AllowList((PeerRule(REPLICA.public, ("replica/*", "client/0"), "host-a"),))
AT_HEAD = Security(HEAD, ALLOW)
AT_REPLICA = Security(REPLICA, server_key=HEAD.public)


def test_with_the_right_keys_messages_go_both_ways():
    async def main(fleet):
        head, at_head = fleet.head("router", security=AT_HEAD)
        peer, at_peer = fleet.peer("host-a", "replica/0", "client/0", security=AT_REPLICA)
        await until(lambda: at_head.joined and at_peer.joined)
        assert head.peers["host-a"].key == REPLICA.public
        peer.send("router", "client/0", submit(1))
        head.send("replica/0", "batcher/default", order(2))
        await until(lambda: at_head.delivered and at_peer.delivered)
        assert head.counters.refused_keys == 0

    run_with_fleet(main)


def test_a_key_that_is_not_on_the_list_is_refused_and_counted():
    async def main(fleet):
        head, at_head = fleet.head("router", security=AT_HEAD)
        fleet.peer("host-a", "replica/0", security=Security(STRANGER, server_key=HEAD.public))
        await until(lambda: head.counters.refused_keys)
        await until(lambda: head.counters.handshake_failures.get("refused-key"))
        assert not at_head.joined

    run_with_fleet(main)


def test_a_head_with_another_key_is_not_believed():
    async def main(fleet):
        head, _ = fleet.head("router", security=AT_HEAD)
        peer, at_peer = fleet.peer(
            "host-a", "replica/0", security=Security(REPLICA, server_key=STRANGER.public)
        )
        await until(lambda: head.counters.handshake_failures)
        peer.send("router", "replica/0", submit(1))
        await asyncio.sleep(0.3)
        assert not at_peer.joined
        assert head.counters.messages_in == 0

    run_with_fleet(main)


def test_without_keys_nobody_joins_a_head_that_has_some():
    async def main(fleet):
        head, at_head = fleet.head("router", security=AT_HEAD)
        fleet.peer("host-a", "replica/0")
        await until(lambda: head.counters.handshake_failures)
        assert not at_head.joined

    run_with_fleet(main)


@pytest.mark.parametrize(
    ("name", "address", "says"),
    [
        ("host-a", "router", "may not host 'router'"),
        ("host-a", "client/1", "may not host 'client/1'"),
        ("host-b", "replica/0", "belongs to 'host-a'"),
    ],
)
def test_a_name_that_is_not_the_keys_own_is_refused(name, address, says):
    async def main(fleet):
        head, at_head = fleet.head(security=AT_HEAD)
        _, at_peer = fleet.peer(name, address, security=AT_REPLICA)
        await until(lambda: at_peer.refused)
        assert says in at_peer.refused[0]
        assert head.counters.refused == {"name": 1}
        assert not at_head.joined

    run_with_fleet(main)


@pytest.mark.live
def test_a_process_with_key_files_joins(tmp_path):
    write_keys(REPLICA, tmp_path / "replica.key")

    async def main(fleet):
        head, at_head = fleet.head("router", security=AT_HEAD)
        options = ("--keys", str(tmp_path / "replica.key"), "--server-key", HEAD.public)
        with peer_process(fleet.endpoint, "host-a", "replica/0", *options):
            await until(lambda: at_head.joined)
            head.send("replica/0", "batcher/default", order(1))
            await until(lambda: at_head.delivered)

    run_with_fleet(main)


# --- endpoints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://127.0.0.1:1", "tcp://127.9.9.9:*", "tcp://[::1]:1", "tcp://localhost:1", "ipc:///tmp/x"],
)
def test_what_only_this_host_reaches_needs_no_keys(endpoint):
    assert is_loopback(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://*:1", "tcp://0.0.0.0:*", "tcp://[::]:1", "tcp://eth0:1", "tcp://192.0.2.1:1", "tcp://gpu-1:1"],
)
def test_what_other_hosts_reach_needs_keys_or_the_word_insecure(endpoint):
    assert not is_loopback(endpoint)
    node = Node("head")
    try:
        with pytest.raises(FleetError, match="insecure"):
            node.bind(endpoint)
        with pytest.raises(FleetError, match="insecure"):
            node.connect(endpoint)
    finally:
        node.close()


def test_insecure_said_in_words_binds_every_address():
    node = Node("head", insecure=True)
    try:
        assert node.bind("tcp://0.0.0.0:*").startswith("tcp://0.0.0.0:")
    finally:
        node.close()


def test_a_client_with_keys_needs_the_heads_public_key():
    node = Node("host-a", security=Security(REPLICA))
    try:
        with pytest.raises(FleetError, match="public key of the head"):
            node.connect("tcp://127.0.0.1:1")
    finally:
        node.close()


# --- files ----------------------------------------------------------------------------------------------


def test_a_public_key_is_never_taken_for_an_option(monkeypatch):
    pairs = [(start * 40, b"s" * 40) for start in (b"-", b"-", b"p")]
    monkeypatch.setattr("zmq.curve_keypair", lambda: pairs.pop(0))

    assert generate_keys().public == "p" * 40


def test_keys_are_written_for_their_owner_only_and_never_overwritten(tmp_path):
    path = tmp_path / "head.key"
    write_keys(HEAD, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_keys(path) == HEAD
    with pytest.raises(FleetError, match="not overwritten"):
        write_keys(STRANGER, path)


def test_a_secret_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "head.key"
    write_keys(HEAD, path)
    path.chmod(0o644)
    with pytest.raises(FleetError, match="chmod 600"):
        read_keys(path)


@pytest.mark.parametrize(
    "text",
    ["", "public = 1\nsecret = 2\n", "not toml", 'public = "short"\nsecret = "short"\n', 'public = "é"\n'],
)
def test_a_key_file_that_is_none_says_so(tmp_path, text):
    path = tmp_path / "head.key"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(FleetError, match=r"head\.key"):
        read_keys(path)


def test_a_key_file_that_is_absent_says_so(tmp_path):
    with pytest.raises(FleetError, match=r"absent\.key"):
        read_keys(tmp_path / "absent.key")


def test_an_allow_list_is_read_from_toml_and_mistakes_name_their_place(tmp_path):
    path = tmp_path / "allow.toml"
    path.write_bytes(f'[[peers]]\nkey = "{REPLICA.public}"\nname = "host-a"\n'.encode())
    assert read_allow_list(path) == AllowList((PeerRule(REPLICA.public, ("host/*", "replica/*"), "host-a"),))
    path.write_text('[[peers]]\nkey = "short"\n')
    with pytest.raises(FleetError, match=r"\$\.peers\[0\]\.key"):
        read_allow_list(path)
    path.write_text(f'[[peers]]\nkey = "{REPLICA.public}"\nhost = "x"\n')
    with pytest.raises(FleetError, match="host"):
        read_allow_list(path)


def test_a_secret_never_reaches_a_log():
    assert HEAD.secret not in repr(HEAD) + repr(AT_HEAD) + str(KeyPair("p", HEAD.secret))
