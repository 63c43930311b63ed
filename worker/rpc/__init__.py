"""The gRPC border: who may call, proto to requests of the engine, its events to proto."""
