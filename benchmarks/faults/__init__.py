"""What a client sees while parts of the mesh fail: named scenarios on real processes, and the same on its peers."""
