"""Declared models, their versions with full lineage, and who serves: aliases that only ever append.

Events in: `model.trained`, `model.evaluated` (a version and its evidence, in any order), `rollout.changed`.
Events out: `model.declared`, `model.approved`, `model.rejected`, `model.promoted`. The first and the last are state:
they are announced again from time to time.
"""
