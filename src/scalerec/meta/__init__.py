"""Meta-learning: new users, items and domains from a few examples."""

from scalerec.meta.tasks import Choose, Episode, Ragged, TaskSet

__all__ = ["Choose", "Episode", "Ragged", "TaskSet"]
