"""What this site adds to Sphinx: each file is one extension."""
