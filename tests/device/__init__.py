"""Checks of where tensors are and of waits for the device, on machines without one."""
