"""How a run goes: optimiser, schedule, checkpoints, progress, report."""
