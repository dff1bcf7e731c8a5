"""Where the command line has chats answered: a gateway over HTTP, a worker over gRPC, an engine in this process."""
