"""etcd, two workers and two gateways on five hosts: each link is cut, each host loses its power, and no client loses a
request or sees another answer than without the fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.etcd_server import find_binary
from tests.harness import wait_until
from tests.netns.network import Host, Network, require_namespaces

STREAMS = 6
# A pair with the client too: it goes on at the other gateway. Workers say nothing to each other.
LINKS = [
    *("etcd worker1", "etcd worker2", "etcd gateway1", "etcd gateway2"),
    *("gateway1 worker1", "gateway1 worker2", "gateway2 worker1", "gateway2 worker2"),
    *("client gateway1", "client gateway2"),
]
HOSTS = ["etcd", "worker1", "worker2", "gateway1", "gateway2"]
ETCD_PORT, HTTP_PORT, GRPC_PORT = 2379, 8000, 50051


class Site:
    """The five hosts, and a sixth with the clients."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.etcd = str(find_binary("etcd"))
        self.hosts = {name: network.add(name) for name in [*HOSTS, "client"]}
        for name in HOSTS:
            self.start(name)
        gateways = [f"http://{self.hosts[name].address}:{HTTP_PORT}" for name in ("gateway1", "gateway2")]
        self.hosts["client"].start_module("tests.netns.client", *gateways, pipes=True)
        self.wait_whole()
        self.expected = self.answers()

    def start(self, name: str) -> None:
        """Start the program of a host."""
        host, etcd = self.hosts[name], f"http://{self.hosts['etcd'].address}:{ETCD_PORT}"
        if name == "etcd":
            url = f"http://{host.address}:{ETCD_PORT}"
            data = str(self.network.folder / "etcd-data")
            listen = (
                "--listen-client-urls",
                url,
                "--advertise-client-urls",
                url,
                "--listen-peer-urls",
                "http://127.0.0.1:2380",
            )
            host.start([self.etcd, "--data-dir", data, *listen, "--logger", "zap", "--log-level", "error"])
        elif name.startswith("worker"):
            script = ("--engine", "scripted", "--script-tokens", "120", "--script-step-ms", "10")
            where = ("--host", host.address, "--port", str(GRPC_PORT), "--worker-id", name, "--ttl", "5")
            host.start_module("mesh.worker", *where, "--etcd", etcd, *script)
        else:
            where = ("--host", host.address, "--port", str(HTTP_PORT), "--insecure-public", "--store", "none")
            # Both workers have work of both gateways, whichever link is cut.
            host.start_module("gateway", *where, "--etcd", etcd, "--policy", "round_robin")

    def tell(self, **command: Any) -> None:
        """Give the clients a command."""
        client = self.hosts["client"].process
        assert client is not None
        assert client.stdin is not None
        client.stdin.write(json.dumps(command) + "\n")
        client.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """What they tell next."""
        client = self.hosts["client"].process
        assert client is not None
        assert client.stdout is not None
        line = client.stdout.readline()
        assert line, self.hosts["client"].tail()
        return json.loads(line)

    def answers(self) -> list[str]:
        """The streams' texts, without a fault."""
        self.tell(do="stream", count=STREAMS)
        assert self.hear() == {"begun": True}
        return self.hear()["answers"]

    def counts(self) -> list[float]:
        """The live workers, by gateway."""
        self.tell(do="count")
        return self.hear()["counts"]

    def wait_whole(self) -> None:
        """Wait until both gateways have both workers."""
        wait_until(lambda: self.counts() == [2, 2], within=30)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    require_namespaces()
    with Network(tmp_path_factory.mktemp("netns")) as network:
        yield Site(network)


def test_the_answers_without_a_fault_are_whole(site: Site) -> None:
    assert len(set(site.expected)) == STREAMS
    assert {len(answer.split()) for answer in site.expected} == {120}
    assert site.answers() == site.expected


def test_a_cut_is_between_two_hosts_and_no_others(site: Site) -> None:
    etcd, worker, gateway = (site.hosts[name] for name in ("etcd", "worker1", "gateway1"))
    site.network.cut(etcd, worker)
    try:
        assert not worker.reaches(etcd, ETCD_PORT)
        assert gateway.reaches(etcd, ETCD_PORT)
        assert gateway.reaches(worker, GRPC_PORT)
    finally:
        site.network.mend()
    assert worker.reaches(etcd, ETCD_PORT)


@pytest.mark.parametrize("link", LINKS)
def test_a_link_that_is_cut_costs_no_answer(site: Site, link: str) -> None:
    one, other = (site.hosts[name] for name in link.split())
    site.tell(do="stream", count=STREAMS)
    assert site.hear() == {"begun": True}
    site.network.cut(one, other)
    try:
        assert site.hear()["answers"] == site.expected
        check_new_requests(site)
    finally:
        site.network.mend()
    site.wait_whole()


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_without_power_costs_no_answer(site: Site, name: str) -> None:
    site.tell(do="stream", count=STREAMS)
    assert site.hear() == {"begun": True}
    lost: Host = site.hosts[name]
    lost.lose_power()
    try:
        assert site.hear()["answers"] == site.expected
        check_new_requests(site)
    finally:
        site.network.mend()
        site.start(name)
    site.wait_whole()


def check_new_requests(site: Site) -> None:
    """Requests that are made while the fault lasts."""
    site.tell(do="ask")
    answers: list[str] = site.hear()["answers"]
    assert all(answer and site.expected[number].startswith(answer) for number, answer in enumerate(answers)), answers
