"""The small BLOOM that ships with minibloom, and the recipe that makes it. See README.md beside this file."""
