"""At least once, in effect once: units of work, inbox, outbox, and the bus between them."""
