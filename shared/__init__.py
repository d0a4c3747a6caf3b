"""What two or more services need, and nothing else: contracts, delivery, units of work, jobs, objects, identity."""
