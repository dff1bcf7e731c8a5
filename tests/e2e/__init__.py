"""The commands as a person runs them: real processes, real etcd, real sockets, real signals."""
