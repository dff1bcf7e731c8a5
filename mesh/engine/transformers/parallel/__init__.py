"""One model over several devices that compute each layer together, a process for each: tensor parallelism."""
