"""Short seeded runs whose losses and metrics are kept as text beside their commands."""
