"""The embedded stack: real Kafka, PostgreSQL, S3, front door, engine and all services as processes of one machine.

`stack.Stack` starts any part of it, in dependency order, on free loopback ports, restarts what dies and leaves no
process behind. `commands` is what `driftwheel up|down|status|doctor` call. One part is one file in `parts/`.
"""
