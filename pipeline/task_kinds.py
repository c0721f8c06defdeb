"""Kinds of tasks (`task.kind`) that have something in common; imports nothing."""

EPISODE_KINDS = ("episodes", "sinusoids")
ENVIRONMENT_KINDS = ("control", "atari")
