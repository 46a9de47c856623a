"""The block with named sites, the towers made of it, and where their weights come from."""
