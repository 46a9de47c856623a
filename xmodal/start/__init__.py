"""Write a config for a folder or list of own files: find the layout, check the files, split them, fill in a recipe."""
