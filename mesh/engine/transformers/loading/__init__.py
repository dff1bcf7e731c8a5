"""From a folder or a hub name to a model on its device, and what fits there."""
