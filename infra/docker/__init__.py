"""Containers: one image per weight, and the secrets that docker-compose.yml hands to each service."""
