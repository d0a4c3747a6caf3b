"""Kafka: the jars the embedded broker runs from, and the topics every deployment needs."""
