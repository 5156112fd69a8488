"""Solutions of the exercises, a file a lesson: for afterwards."""
