"""The engine of models whose token ids are computed by somebody else: all besides is the mesh's own."""
