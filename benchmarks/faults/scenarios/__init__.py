"""The scenarios, by what fails."""

from benchmarks.faults.scenarios import clients, fleet, gateways, hosts, network, registry, workers, wrong_answers
from benchmarks.faults.stage import Scenario

_ROOMS = (workers, wrong_answers, network, fleet, registry, gateways, clients, hosts)

SCENARIOS = {each.name: each for room in _ROOMS for each in vars(room).values() if isinstance(each, Scenario)}
