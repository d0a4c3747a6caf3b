"""Measures a trained adapter against the base, the few-shot base and the champion, and gives a verdict per gate.

Events in: `model.declared` (gates, generation), `model.trained` (what to evaluate), `model.promoted` (who is champion).
Events out: `model.evaluated`.
"""
