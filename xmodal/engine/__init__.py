"""How a run goes: optimizer, schedule, checkpoints, progress, report."""
