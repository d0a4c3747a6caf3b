"""How a process lives: settings, clock, runtime."""
