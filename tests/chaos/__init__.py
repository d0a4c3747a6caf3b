"""Chaos: the whole platform, twice of everything, under faults drawn from a seed; then its history is checked."""
