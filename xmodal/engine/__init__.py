"""Training and evaluation on mmengine: loops, optimizer, schedules, checkpoints, logs and reports."""
