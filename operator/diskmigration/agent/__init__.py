"""The agent of one node: it runs the migrations delegated to it and keeps thin volumes extended."""
