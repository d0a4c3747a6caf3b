"""How people look in: the `driftwheel` command. It talks to the services over HTTP, through the front door only.

Events in: none. Events out: none (what a command changes, a service announces).
"""
