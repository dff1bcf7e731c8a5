"""Scripted workers on the wires of the peers. They run in the environments of those, hence import only each other."""
