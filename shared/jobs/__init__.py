"""Work longer than a Kafka poll: the worker, its attempts, and their history."""
