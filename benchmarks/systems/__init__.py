"""The systems that are measured, ours and its peers: each a gateway with scripted workers on its own wire."""

from benchmarks.systems.dynamo import Dynamo
from benchmarks.systems.fastchat import FastChat
from benchmarks.systems.litellm import LiteLlm
from benchmarks.systems.ours import Ours
from benchmarks.systems.smg import Smg
from benchmarks.systems.system import System

SYSTEMS: dict[str, type[System]] = {each.name: each for each in (Ours, Smg, Dynamo, LiteLlm, FastChat)}
